"""Random draws that depend only on a seed and a purpose, not on earlier draws."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def generator_for(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose, e.g. ``generator_for(seed, "iteration", 17)``.

    Iteration i draws the same values whether the run is uninterrupted, resumed, or in another process, and a checkpoint needs
    no generator state.
    """
    name = "/".join(map(str, (seed, *purpose)))
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


@contextmanager
def global_draws_from(generator: torch.Generator, device: torch.device | None = None) -> Iterator[None]:
    """Within, torch's global state is seeded from one draw of ``generator``; afterwards it is restored.

    For code that accepts no generator: dropout, torchvision's transforms. Covers the state of the CPU, and of ``device`` if it
    is a CUDA device.
    """
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    cuda = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which seeds every accelerator as well
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Restore the global random states of torch (all devices), numpy and Python at the end, whatever happens inside."""
    python, legacy = random.getstate(), np.random.get_state()
    # All devices, named: fork_rng warns of more than one otherwise.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)

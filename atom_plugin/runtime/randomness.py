"""Random draws that depend on a seed and on what they are for, and on nothing that was drawn before."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def generator_for(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose, e.g. ``generator_for(seed, "iteration", 17)``.

    Counter-based rather than consumed in turn: iteration i draws the same whether the run came there in one go, was
    resumed, or runs in another process, and a checkpoint needs no generator state.
    """
    name = "/".join(map(str, (seed, *purpose)))
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


@contextmanager
def global_draws_from(generator: torch.Generator, device: torch.device | None = None) -> Iterator[None]:
    """Within, torch's global state is seeded from one draw of ``generator``; after, it is as it was.

    For code that offers no generator of its own: dropout, torchvision's transforms. The CPU's state, and that of ``device``
    where it is a CUDA one.
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
    """Global random states as they were, whatever happens inside: torch (all devices), numpy, Python."""
    python, legacy = random.getstate(), np.random.get_state()
    # All devices, named: fork_rng warns of more than one otherwise.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)

"""Random draws that depend on a seed and on what they are for, and on nothing that was drawn before."""

from __future__ import annotations

import hashlib

import torch


def generator_for(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose, e.g. ``generator_for(seed, "iteration", 17)``.

    Counter-based rather than consumed in turn: iteration i draws the same whether the run came there in one go, was
    resumed, or runs in another process, and a checkpoint needs no generator state.
    """
    name = "/".join(map(str, (seed, *purpose)))
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))

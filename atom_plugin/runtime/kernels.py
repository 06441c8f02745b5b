"""Kernels of our own beside torch's operations: taken where they can be had and give the same."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch

_logger = logging.getLogger("atom_plugin")


def usable(
    name: str,
    ours: Callable[[], Sequence[torch.Tensor]],
    theirs: Callable[[], Sequence[torch.Tensor]],
    *,
    device: torch.device,
    rounding: float,
) -> bool:
    """Whether ``ours`` runs, and gives what ``theirs`` gives, torch's way; a line in the log says that ``name`` is out if not.

    Both compute on ``device``, which is the current one meanwhile: triton asks no tensor where it is. ``rounding`` is the most
    that a result may differ by, relative to its size. To be asked before anything is recorded: kernels are compiled, and
    results waited for.
    """
    try:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            differences = [_difference(*pair) for pair in zip(ours(), theirs(), strict=True)]
        if not all(difference < rounding for difference in differences):
            raise RuntimeError(f"they differ from torch's results by {max(differences):.2g} of their size")
    except Exception as error:  # whatever a missing or unfit compiler raises: the same can be had without it
        _logger.warning("no fused %s (%s); going on without", name, str(error).partition("\n")[0])
        return False
    return True


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Relative to the size of ``theirs``."""
    norm = torch.linalg.vector_norm
    return float(norm(ours.double() - theirs.double()) / norm(theirs.double()))

"""Custom kernels in place of torch's operations: used if they are available and give the same results."""

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
    """Whether the kernel ``ours`` runs and gives the results of torch's ``theirs``; if not, a log message names ``name``.

    Both compute on ``device``, which is the current device meanwhile, because triton does not look at the tensors' device.
    ``rounding`` is the largest allowed relative difference. Call this before recording a graph: it compiles kernels and waits
    for results.
    """
    try:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            differences = [_difference(*pair) for pair in zip(ours(), theirs(), strict=True)]
        if not all(difference < rounding for difference in differences):
            raise RuntimeError(f"they differ from torch's results by {max(differences):.2g} of their size")
    except Exception as error:  # whatever a missing or unfit compiler raises: the same can be had without it
        _logger.warning("no fused %s (%s); continuing without it", name, str(error).partition("\n")[0])
        return False
    return True


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Relative to the size of ``theirs``."""
    norm = torch.linalg.vector_norm
    return float(norm(ours.double() - theirs.double()) / norm(theirs.double()))

"""CUDA graphs: record a function of fixed tensors once, and replay it without work on the host."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch

_logger = logging.getLogger("atom_plugin")
_ROUNDING = 1e-6  # of a tensor's size, which a step of next to no learning rate moves it by
_WARM_UPS = 3  # libraries choose and allocate in the first calls; torch's documentation asks for three


def captured(run: Callable[[], object], *, changed: Sequence[torch.Tensor]) -> Callable[[], object]:
    """``run`` recorded as one CUDA graph; ``run`` itself, with a log message, if that is impossible.

    ``run`` must read and write tensors at fixed addresses, and must not synchronise; it may allocate. ``changed`` are the
    tensors that it changes, at least one: their values are restored in the end, so that capturing computes nothing. The graph
    is captured and replayed on their device, not the current device.
    """
    device = changed[0].device
    before = _copies(changed)
    try:
        with torch.cuda.device(device):
            replay = _recorded(run)
            _put_back(changed, before)
            if not same_effect(run, replay, changed=changed):
                raise RuntimeError("the graph does not do what was recorded")
    except RuntimeError as error:
        _logger.warning("not captured as a CUDA graph (%s); continuing without one", str(error).partition("\n")[0])
        return run
    finally:
        torch.cuda.synchronize(device)
        _put_back(changed, before)

    def replay_there() -> None:
        with torch.cuda.device(device):
            replay()

    return replay_there


def same_effect(one: Callable[[], object], other: Callable[[], object], *, changed: Sequence[torch.Tensor]) -> bool:
    """Whether both change the tensors ``changed`` in the same way; the tensors are restored afterwards.

    The same means: within half of the change that ``one`` makes to each tensor, and rounding. An empty graph, or one that
    writes elsewhere, differs more; another algorithm for the same sums differs less.
    """
    before = _copies(changed)
    results = []
    for run in (one, other):
        run()
        results.append(_copies(changed))
        _put_back(changed, before)
    return all(
        _distance(theirs, ours) <= 0.5 * _distance(ours, start) + _ROUNDING * _distance(start, torch.zeros_like(start))
        for start, ours, theirs in zip(before, *results, strict=True)
    )


def _recorded(run: Callable[[], object]) -> Callable[[], object]:
    current = torch.cuda.current_stream()
    side = torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        for _ in range(_WARM_UPS):
            run()
    current.wait_stream(side)
    # Other threads may go on allocating page-locked memory while this one records.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        run()
    return graph.replay


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    # What is not finite counts as 0: both ways of running may blow up alike.
    difference = (one.double() - other.double()).nan_to_num(0.0, 0.0, 0.0)
    return float(torch.linalg.vector_norm(difference))


def _copies(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _put_back(tensors: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)

"""CUDA graphs: a function of fixed tensors, recorded once and replayed without the host's work in between."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch

_logger = logging.getLogger("atom_plugin")
_WARM_UPS = 3  # libraries choose and allocate in the first calls; torch's documentation asks for three


def captured(run: Callable[[], object], *, changed: Sequence[torch.Tensor]) -> Callable[[], object]:
    """The same as ``run``, as one CUDA graph; ``run`` itself where the device cannot record it, with a line in the log.

    ``run`` reads and writes tensors whose addresses stay the same, waits for nothing, and allocates what it likes.
    ``changed`` are those that it changes: they are put back after the warm-up, so that capturing computes nothing.
    """
    before = [tensor.detach().clone() for tensor in changed]
    current = torch.cuda.current_stream()
    side = torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    try:
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                run()
        current.wait_stream(side)
        # Other threads may go on allocating page-locked memory while this one records.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            run()
    except RuntimeError as error:
        _logger.warning("not captured as a CUDA graph (%s); going on without one", str(error).partition("\n")[0])
        return run
    finally:
        torch.cuda.synchronize()
        with torch.no_grad():
            for tensor, value in zip(changed, before, strict=True):
                tensor.copy_(value)
    return graph.replay

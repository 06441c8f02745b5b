"""Work on a CPU in whole pieces: each thread takes a piece through many small operations, alone.

torch splits each operation over its threads and waits for all of them at its end. Where operations are short (a piece that
fits a cache), or a core is busy with other work, most of the time goes into that waiting. Here there is one wait per call.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_here = threading.local()
_pools: dict[int, ThreadPoolExecutor] = {}

# A forked child inherits the record of threads that it does not have.
os.register_at_fork(after_in_child=_pools.clear)


def parallel_map(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """``[function(item) for item in items]``, on as many threads as torch would use, each with one thread of torch's own.

    Runs without gradient tracking, unless ``function`` turns it on, and under the caller's autocast and context variables.
    Results keep the order of the items, so that a sum over them is the same whatever the number of threads. An exception of
    any item is raised. Calls from within ``function`` run in the thread they are made in.
    """
    work = list(items)
    threads = torch.get_num_threads()
    if threads == 1 or len(work) < 2 or getattr(_here, "busy", False):
        with torch.no_grad():
            return [function(item) for item in work]

    narrow, kind = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")  # each thread has its own

    def run(item: Item) -> Result:
        _here.busy = True
        # In OpenMP's case a setting of this thread, in MKL's one of the process: hence set for each call.
        torch.set_num_threads(1)
        with torch.no_grad(), torch.autocast("cpu", kind, enabled=narrow):
            return function(item)

    context = copy_context()
    pool = _pools.get(threads) or _pools.setdefault(threads, ThreadPoolExecutor(threads, "atom_plugin"))
    try:
        return list(pool.map(lambda item: context.copy().run(run, item), work))
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def torch_threads() -> Iterator[None]:
    """Within, in this thread: items of :func:`parallel_map` come in turn, and torch splits each operation over its threads."""
    before = getattr(_here, "busy", False)
    _here.busy = True
    try:
        yield
    finally:
        _here.busy = before

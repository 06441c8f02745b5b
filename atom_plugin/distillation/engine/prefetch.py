"""Read the next batch's rows in a thread while the current batch is processed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch


class Prefetcher:
    """Calls ``read`` (indices (n,) to rows (n, ...)) one batch ahead, so that an announced batch is ready when asked for.

    Announcing changes when rows are read and never which: a wrong announcement only costs its reading. At most one announced
    batch exists at a time. An error of ``read`` in the thread is raised by the :meth:`take` that asks for that batch.
    """

    def __init__(self, read: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._read = read
        self._thread: ThreadPoolExecutor | None = None
        self._announced: tuple[torch.Tensor, Future[torch.Tensor]] | None = None

    def take(self, indices: torch.Tensor, *, ahead: torch.Tensor | None = None) -> torch.Tensor:
        """The rows of ``indices`` (n,); the reading of ``ahead`` (n',) begins before this returns."""
        announced, self._announced = self._announced, None
        if announced is None:
            rows = self._read(indices)
        else:
            # Waited for in any case, also where it is of no use: two batches ahead would be two in memory.
            expected, future = announced
            rows = future.result() if torch.equal(expected, indices) else self._instead(future, indices)
        if ahead is not None:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="atom-prefetch")
            self._announced = ahead, self._thread.submit(self._read, ahead)
        return rows

    def close(self) -> None:
        """End the thread after its current read. A later :meth:`take` starts another."""
        thread, self._thread, self._announced = self._thread, None, None
        if thread is not None:
            thread.shutdown(wait=True, cancel_futures=True)

    def _instead(self, future: Future[torch.Tensor], indices: torch.Tensor) -> torch.Tensor:
        future.exception()  # waits; a failure of rows that nobody asked for is nobody's
        return self._read(indices)

"""Keep the C library from returning the memory of every large tensor to the kernel.

A step allocates and frees feature maps of many megabytes. glibc maps each anew and unmaps it when freed, so that each use
begins with a page fault per 4 KiB; on a CPU that costs more than the arithmetic (see docs/notes/cpu-step.md: a training step of
a ConvNet-3 takes 0.26 s instead of 1.1 s). Inside :func:`reuse_freed_memory` the process keeps freed memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
import threading
from collections.abc import Iterator

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_NEVER, _DEFAULT_TRIM, _DEFAULT_MMAP_MAX = 2**31 - 1, 128 * 1024, 65536


_lock = threading.Lock()
_users = 0


@contextlib.contextmanager
def reuse_freed_memory() -> Iterator[None]:
    """A context in which large allocations reuse freed memory; does nothing if the C library is not glibc.

    It changes the whole process. When the last context is left, glibc's documented defaults are restored and free memory goes
    back to the system.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    _count(libc, +1)
    try:
        yield
    finally:
        _count(libc, -1)


def _count(libc: ctypes.CDLL, change: int) -> None:
    global _users  # noqa: PLW0603  # the C library's settings are global too
    with _lock:
        _users += change
        if change > 0 and _users == 1:
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
        elif not _users:
            libc.mallopt(_M_MMAP_MAX, _DEFAULT_MMAP_MAX)
            libc.mallopt(_M_TRIM_THRESHOLD, _DEFAULT_TRIM)
            libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None)

"""The two renames that Python lacks: one that fails if the new name is taken, and one that exchanges two names."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Callable
from pathlib import Path

_HERE = -100  # AT_FDCWD: paths are relative to the working folder
_NO_REPLACE, _EXCHANGE = 1, 2  # linux/fs.h
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM}


def rename_new(old: Path, new: Path) -> None:
    """Rename ``old``, a file or a folder, to ``new``. Raises FileExistsError if the name is taken.

    If the system cannot check and rename in one step, a file that appears between the two is replaced, but never a folder that
    is not empty.
    """
    if _renamed(old, new, _NO_REPLACE):
        return
    if os.path.lexists(new):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new))
    old.rename(new)


def exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two files or folders in one step; returns False and does nothing if the system cannot."""
    return _renamed(one, other, _EXCHANGE)


def _renamed(old: Path, new: Path, flags: int) -> bool:
    function = renameat2()
    if function is None:
        return False
    if function(_HERE, os.fsencode(old), _HERE, os.fsencode(new), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(new))  # of the kind that the number stands for


@functools.cache
def renameat2() -> Callable[..., int] | None:
    """Linux's system call, if the C library has it."""
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    function.restype = ctypes.c_int
    held: Callable[..., int] = function
    return held

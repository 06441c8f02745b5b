"""Reserve a file name during a run: a hidden file next to it names the process that writes it, and ends with that process."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atom_plugin.errors import StoreError
from atom_plugin.runtime import bounded_json
from atom_plugin.runtime.files import reason

_NAME = re.compile(r"\.[0-9a-f]{16}\.lock")
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL}
_held: set[int] = set()  # descriptors: the system holds a lock until the last copy of one is closed


@contextlib.contextmanager
def locked(path: Path, command: str) -> Iterator[None]:
    """Within: no other process that asks for ``path`` gets it; the lock file is removed at the end in any case.

    ``command`` is shown to other processes as what this process runs. The lock of an ended process is taken over; a forked
    child does not hold it. Raises StoreError, naming the other process, if one has the path, or if the folder cannot be
    written. The system's locks decide; on a file system without locks, the process number on this host does.
    """
    lock = lock_file(path)
    descriptor = _taken(lock, path)
    owner = os.getpid()
    _held.add(descriptor)
    try:
        about = {"process": owner, "host": socket.gethostname(), "since": time.time(), "command": command}
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"path": path.name, **about}).encode())
        yield
    finally:
        if os.getpid() == owner:
            with contextlib.suppress(OSError):
                lock.unlink()
            _held.discard(descriptor)
            os.close(descriptor)


def lock_file(path: Path) -> Path:
    """The hidden lock file of ``path``; its name is short enough for any path."""
    return path.parent / f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}.lock"


def remove_stale_locks(folder: Path) -> None:
    """Remove the locks in ``folder`` whose processes were killed."""
    with contextlib.suppress(OSError):
        for item in [Path(entry.path) for entry in os.scandir(folder) if _NAME.fullmatch(entry.name)]:
            descriptor = os.open(item, os.O_RDWR)
            try:
                if _locks(descriptor) is True and _is(item, descriptor):
                    item.unlink()
            finally:
                os.close(descriptor)


def _taken(lock: Path, path: Path) -> int:
    """A descriptor of the lock file, opened by this process alone."""
    while True:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StoreError(f"{path}: cannot be written: {reason(error, path)}") from error
        got = _locks(descriptor)
        if got is None:
            got = not _lives(_holder(descriptor))
            os.lseek(descriptor, 0, os.SEEK_SET)
        if not got:
            held = _holder(descriptor)
            os.close(descriptor)
            raise StoreError(f"{path}: {_named(held)}; wait until it ends, or choose another name")
        if _is(lock, descriptor):
            return descriptor
        os.close(descriptor)  # of a process that has just ended, and removed the file


def _locks(descriptor: int) -> bool | None:
    """Whether the system gave the lock; None if the file system has no locks."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        return None
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise
    return True


def _holder(descriptor: int) -> dict[str, Any]:
    """The file's record of its process; empty if the process has not written it yet."""
    for _ in range(5):
        try:
            os.lseek(descriptor, 0, os.SEEK_SET)
            held = bounded_json.parse(os.read(descriptor, 1 << 16))
        except ValueError:
            time.sleep(0.02)
        else:
            return held if isinstance(held, dict) else {}
    return {}


def _lives(holder: dict[str, Any]) -> bool:
    """Whether the process may be running: not if no process on this host has its number, or if none is recorded."""
    number = holder.get("process")
    if holder.get("host") != socket.gethostname():
        return bool(holder)
    try:
        os.kill(int(number or 0), 0)
    except PermissionError:
        return True
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    return True


def _named(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process is writing it"
    since = time.strftime("%H:%M:%S", time.localtime(float(holder.get("since", 0))))
    who = f"process {holder.get('process')} on {holder.get('host')}"
    return f"{who} has been writing it since {since} ({holder.get('command')})"


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _release_in_child() -> None:
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)

"""Files that appear under their final name complete, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from pathlib import Path

from atom_plugin.errors import StoreError
from atom_plugin.runtime.renames import rename_new

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")
_ABANDONED = 3600.0  # seconds without a write


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise StoreError if ``path`` exists and must not be replaced; ``force`` allows it for a regular file only."""
    if not os.path.lexists(path):
        return
    if path.is_dir():
        raise StoreError(f"{path}: is a folder, expected a file name; name a file in it")
    if not force:
        raise StoreError(f"{path}: already exists and is kept; choose another name, or allow replacing it with --force")
    if path.exists() and not path.is_file():
        raise StoreError(f"{path}: is neither a regular file nor a folder and is not replaced; choose another name")


def write_bytes(path: Path, data: bytes | memoryview, *, force: bool) -> None:
    """Write ``data`` to a temporary name in the same folder, then move it to ``path``.

    If anything fails, an older file at ``path`` stays unchanged and the temporary one is removed. Without ``force`` even a file
    that appears meanwhile is not overwritten. Raises StoreError.
    """
    refuse_existing(path, force=force)
    temporary = temporary_beside(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _move(temporary, path, force=force)
        _sync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {reason(error, path, len(data))}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def append_line(path: Path, line: bytes) -> None:
    """Append ``line``, which ends with a newline, to ``path`` in one write; a torn line before it stays a line of its own.

    No other process's write can mix with it, and it is on the disk when this returns. Raises StoreError, also if a full disk
    took only a part of it.
    """
    try:
        with path.open("a+b", buffering=0) as file:
            torn = b""
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                torn = b"" if file.read(1) == b"\n" else b"\n"
            written = file.write(torn + line) - len(torn)
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {reason(error, path, len(line))}") from error
    if written < len(line):
        raise StoreError(f"{path}: took {written} of {len(line)} bytes; free some space, and start again")


def temporary_beside(path: Path) -> Path:
    """A new hidden name in the folder of ``path``; short enough for any final name.

    Temporary files of killed processes are removed first (:func:`remove_abandoned`).
    """
    remove_abandoned(path.parent)
    return path.parent / f".{secrets.token_hex(8)}.tmp"


def remove_abandoned(folder: Path) -> None:
    """Remove this user's temporary files and folders that have not been written to for an hour: their process was killed."""
    with contextlib.suppress(OSError):
        found = [entry for entry in os.scandir(folder) if _TEMPORARY.fullmatch(entry.name)]
        for entry in found:
            mine = entry.stat(follow_symlinks=False).st_uid == getattr(os, "geteuid", int)()
            path = Path(entry.path)
            if not mine or time.time() - _last_write(path) < _ABANDONED:
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _last_write(path: Path) -> float:
    """The last change of a file, or of anything in a folder, in seconds as of :func:`time.time`."""
    return max(item.lstat().st_mtime for item in (path, *path.rglob("*")))


def reason(error: OSError, path: Path, size: int | None = None) -> str:
    """The meaning of a failed write, and what to do about it."""
    if isinstance(error, FileNotFoundError):
        return f"there is no folder {path.parent}; create it first"
    if isinstance(error, NotADirectoryError):
        return f"{path.parent} is not a folder; choose another name"
    if isinstance(error, PermissionError):
        return f"no permission to write in {path.parent}; choose another folder"
    if error.errno in _FULL:
        needed = "" if size is None else f" for {size} bytes"
        return f"no space{needed} ({os.strerror(error.errno or 0)}); free some, or choose another disk"
    return f"{error.strerror or error}; choose another name or folder"


def _move(temporary: Path, path: Path, *, force: bool) -> None:
    if force:
        temporary.replace(path)
        return
    try:
        # A link fails where the name is taken; a move would overwrite what another process just put there.
        os.link(temporary, path)
    except FileExistsError:
        refuse_existing(path, force=False)
        raise
    except (OSError, NotImplementedError):
        # No hard links here (FAT, some network and container mounts).
        refuse_existing(path, force=False)
        rename_new(temporary, path)


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable, if the system can open a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

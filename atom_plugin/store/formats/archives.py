"""Zip archives, npz and torch's, with a check of their sizes before anything in them is unpacked."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import BinaryIO

from atom_plugin.errors import StoreError
from atom_plugin.runtime.memory import machine_memory

# Pixels hardly shrink; arrays of few different numbers may, but then they are small.
_SMALL, _MOST_SHRUNK = 64 * 2**20, 100
_MOST_MEMBERS = 100_000


def refuse_bomb(path: Path, file: BinaryIO) -> None:
    """Raise StoreError if the zip archive ``file`` (called ``path``) would unpack to a far larger size.

    Leaves the file at its beginning. A file that is not a zip archive passes.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):  # the reader says what is wrong with it
        return
    finally:
        size = file.seek(0, 2)
        file.seek(0)
    unpacked = sum(member.file_size for member in members)
    if unpacked > _SMALL and unpacked > _MOST_SHRUNK * size:
        raise StoreError(
            f"{path}: unpacks from {size:,} bytes to {unpacked:,}, more than {_MOST_SHRUNK} times as many; it is not "
            "a set, or write it again without compression"
        )
    if unpacked > machine_memory() // 2:
        raise StoreError(
            f"{path}: unpacks to {unpacked / 1e9:.1f} GB, more than half of this machine's memory; split it"
        )
    if len(members) > _MOST_MEMBERS:
        raise StoreError(f"{path}: is an archive of {len(members):,} members, expected about ten; try another --format")

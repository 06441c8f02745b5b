"""Open files of synthetic sets without trusting them.

Every dataset is contiguous, and its declared size is checked against the file before a byte of it is read: a damaged or
malicious shape allocates nothing.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from h5py import h5d

from atom_plugin.errors import AtomError, StoreError
from atom_plugin.runtime.versions import __version__
from atom_plugin.store.hdf5_writer import blocks, datasets_and_attributes, digest, list_objects, load
from atom_plugin.store.schema import ELEMENTS, FORMAT, FORMAT_VERSION, Array, Arrays, SchemaError

Identity = tuple[int, int, int]
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_NAMED = 8
_DAMAGED = "the file is damaged or was changed; restore a copy or make it again"


def identity(status: os.stat_result) -> Identity:
    """Values that tell a file from another, or from a later one of the same name."""
    return status.st_ino, status.st_size, status.st_mtime_ns


@dataclass(frozen=True, kw_only=True, eq=False)
class StoreFile:
    """An open file of this format in which every dataset is complete. ``objects`` by name, the root under ""."""

    path: Path
    identity: Identity
    version: int
    written_by: str
    checksum: str
    objects: dict[str, Any]

    def shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The known elements' numpy type and shape by name."""
        known = {key: self.objects[key] for key in ELEMENTS if isinstance(self.objects.get(key), h5py.Dataset)}
        return {key: (item.dtype.str, item.shape) for key, item in known.items()}

    @property
    def size(self) -> int:
        """In bytes."""
        return self.identity[1]

    def arrays(self, *, but: Collection[str] = ()) -> dict[str, Array]:
        """The known elements, complete, except the named ones."""
        return {key: load(self.objects[key]) for key in self.shapes() if key not in but}

    def blocks(self, key: str) -> Iterator[Array]:
        """One dataset in parts of some megabytes along its first axis."""
        return blocks(self.objects[key])

    def verify_checksum(self, loaded: Arrays) -> None:
        """Compare with the stored checksum; datasets not in ``loaded`` are read once more. Raises SchemaError."""
        found = digest(self.objects, loaded)
        if found != self.checksum:
            raise SchemaError(f"checksum: the content has {found[:16]}…, the file says {self.checksum[:16]}…")


@contextmanager
def open_checked(path: Path) -> Iterator[StoreFile]:
    """Open a set's file and check its structure: kind, format, version, and that nothing lies beyond its end.

    Any error of HDF5, or of the body of the ``with``, becomes a one-line StoreError.
    """
    with _open_bytes(path) as raw:
        try:
            _check_signature(path, raw)
            # Through a Python file: no locks, no state that HDF5 shares between handles or across a fork.
            with h5py.File(raw, "r") as file:
                yield _checked(path, identity(os.fstat(raw.fileno())), file)
        except AtomError:
            raise
        except SchemaError as error:
            raise StoreError(f"{path}: {error}; {_DAMAGED}") from error
        except MemoryError as error:
            raise StoreError(f"{path}: does not fit in memory; open it lazily, or on a larger machine") from error
        # HDF5 has no one exception for a damaged file: OSError, RuntimeError, KeyError and more occur.
        except Exception as error:
            what = " ".join(str(error).split()) or type(error).__name__
            raise StoreError(f"{path}: cannot be read as HDF5 ({what}); {_DAMAGED}") from error


def _open_bytes(path: Path) -> BinaryIO:
    try:
        mode = path.stat().st_mode
        # Before opening: to open a pipe would wait for its other end.
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise StoreError(f"{path}: is {kind}, expected a synthetic set's .h5 file; give its name")
        return path.open("rb")
    except FileNotFoundError as error:
        raise StoreError(f"{path}: there is no such file; check the name") from error
    except PermissionError as error:
        raise StoreError(f"{path}: no permission to read it; ask its owner") from error
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be opened ({error.strerror or error}); check the name and the disk"
        ) from error


def _check_signature(path: Path, raw: BinaryIO) -> None:
    head = raw.read(len(_SIGNATURE))
    raw.seek(0)
    if not head:
        raise StoreError(f"{path}: is empty, expected a synthetic set's .h5 file; make it again")
    if head != _SIGNATURE and (block := _user_block(raw)):
        raise StoreError(
            f"{path}: is an HDF5 file behind a user block of {block} bytes, expected none; remove it with h5unjam -i IN -o OUT"
        )
    if head != _SIGNATURE:
        raise StoreError(f"{path}: is not an HDF5 file (it starts with {head!r}); give a synthetic set's .h5 file")


def _user_block(raw: BinaryIO) -> int:
    """Bytes before HDF5's signature, which may be at 512, 1024, 2048 and so on; 0 if there is none."""
    found, place = 0, 512
    while not found and raw.seek(place) and (head := raw.read(len(_SIGNATURE))):
        found = place if head == _SIGNATURE else 0
        place *= 2
    raw.seek(0)
    return found


def _checked(path: Path, file_identity: Identity, file: Any) -> StoreFile:
    found = file.attrs.get("format")
    if not (isinstance(found, bytes) and found == FORMAT.encode()):
        keys = ", ".join(sorted(islice(file, _NAMED))) or "nothing"
        raise StoreError(
            f"{path}: is an HDF5 file, but not a synthetic set: found keys {keys}, expected the attribute format = "
            f"{FORMAT}; give a file that atom-plugin wrote"
        )
    version = file.attrs.get("format_version")
    if not isinstance(version, np.integer) or version < 1:
        raise SchemaError(f"format_version: found {version!r}, expected 1 to {FORMAT_VERSION}")
    if version > FORMAT_VERSION:
        raise StoreError(
            f"{path}: has format version {version}, but atom-plugin {__version__} reads up to {FORMAT_VERSION}; "
            "update atom-plugin"
        )
    objects = list_objects(file)
    _check_extents(path, objects, file_identity[1])
    return StoreFile(
        path=path,
        identity=file_identity,
        version=int(version),
        written_by=_root_text(file, "written_by"),
        checksum=_root_text(file, "checksum"),
        objects=objects,
    )


def _check_extents(path: Path, objects: dict[str, Any], size: int) -> None:
    """Refuse data that is not in the file itself, byte for byte: chunked, external, virtual, oversized data."""
    for key, item in datasets_and_attributes(objects).items():
        if item.dtype.kind not in "fiuS" or item.shape is None:
            raise SchemaError(f"{key}: found type {item.dtype}, expected numbers or text of a fixed length")
        end = math.prod(item.shape) * item.dtype.itemsize
        if isinstance(item, h5py.Dataset) and end:
            start = item.id.get_offset()
            if how := _rewritten(item):
                raise StoreError(
                    f"{path}: {key} is stored {how}, as other programs rewrite files; a set's file is contiguous, to be "
                    "mapped; convert it with h5repack -l CONTI -f NONE IN OUT"
                )
            if item.id.get_create_plist().get_layout() != h5d.CONTIGUOUS or start is None:
                raise SchemaError(
                    f"{key}: found a layout that is not contiguous in this file, expected a contiguous one"
                )
            end += start
        if end > size:
            raise SchemaError(f"{key}: ends at byte {end}, but the file has {size}")


def _rewritten(item: Any) -> str:
    """How a dataset is stored if not in one piece, e.g. "in chunks"; empty if it is contiguous."""
    if item.compression:
        return f"in chunks and compressed ({item.compression})"
    if item.chunks is not None:
        return f"in chunks of {item.chunks}" + (" behind filters" if item.id.get_create_plist().get_nfilters() else "")
    return ""


def _root_text(file: Any, name: str) -> str:
    found = file.attrs.get(name)
    if not isinstance(found, bytes):
        raise SchemaError(f"{name}: found {found!r}, expected a text attribute")
    return found.decode()

"""Synthetic sets as files: one self-describing, checked HDF5 file per set. docs/file-format.md is normative."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from atom_plugin import store_codec
from atom_plugin.atomic import refuse_existing, write_bytes
from atom_plugin.errors import StoreError
from atom_plugin.store_content import serialise
from atom_plugin.store_file import StoreFile, opened
from atom_plugin.store_schema import ZCA, Arrays, SchemaError, check_shapes, check_values
from atom_plugin.stored_images import StoredImages
from atom_plugin.synthetic_set import Provenance, SyntheticSet


def write(synthetic_set: SyntheticSet, path: str | Path, *, force: bool = False) -> None:
    """Write a set to ``path``, atomically; equal sets give equal bytes. Takes the set's size in memory once more.

    Raises StoreError if the file exists (unless ``force``), cannot be written, or the set cannot be stored: pixels
    that are not finite, class names that are not Unicode, a config that is not JSON. Then nothing is written.
    """
    target = Path(path)
    refuse_existing(target, force=force)
    try:
        arrays = store_codec.encode(synthetic_set)
        check_shapes({key: (array.dtype.str, array.shape) for key, array in arrays.items()})
        check_values(arrays, [arrays["images"]], arrays["images"].shape[1:])
    except SchemaError as error:
        raise StoreError(f"{target}: not written: {error}; mend the set first") from error
    write_bytes(target, serialise(arrays), force=force)


def read(path: str | Path) -> SyntheticSet:
    """Read a whole set, with every check of :func:`verify`. Raises StoreError."""
    with opened(Path(path)) as file:
        check_shapes(file.shapes())
        arrays = file.arrays()
        file.verify_checksum(arrays)
        check_values(arrays, [arrays["images"]], arrays["images"].shape[1:])
        return store_codec.decode(arrays)


@dataclass(frozen=True, kw_only=True, eq=False)
class Header:
    """What a file says beside pixels and ZCA matrix: ``shape`` is (N, C, H, W), ``labels`` int64 (N,), ``mean`` and
    ``std`` float per channel, ``zca_eps`` None without whitening, ``size`` the file's in bytes.
    """

    path: Path
    size: int
    version: int
    written_by: str
    checksum: str
    shape: tuple[int, int, int, int]
    labels: torch.Tensor
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    zca_eps: float | None
    provenance: Provenance

    @property
    def counts(self) -> dict[int, int]:
        """Images by class id, for the classes that have any."""
        return dict(sorted(Counter(self.labels.tolist()).items()))


def read_header(path: str | Path) -> Header:
    """Read all but pixels and ZCA matrix, so without the checksum's verification. Raises StoreError."""
    with opened(Path(path)) as file:
        check_shapes(file.shapes())
        arrays = file.arrays(but=("images", f"{ZCA}/matrix"))
        shape = file.shapes()["images"][1]
        check_values(arrays, [], shape[1:])
        return _header(file, arrays)


def verify(path: str | Path) -> Header:
    """Check everything: HDF5, format, version, types, shapes, the checksum, finite values, labels.

    Reads in blocks, so that a set larger than memory can be checked. Raises StoreError at the first thing wrong.
    """
    with opened(Path(path)) as file:
        return _header(file, _verified(file))


def _verified(file: StoreFile) -> Arrays:
    """All arrays but the images, every check done."""
    check_shapes(file.shapes())
    arrays = file.arrays(but=("images",))
    file.verify_checksum(arrays)
    check_values(arrays, file.blocks("images"), file.shapes()["images"][1][1:])
    return arrays


def _header(file: StoreFile, arrays: Arrays) -> Header:
    count, channels, height, width = file.shapes()["images"][1]
    eps = arrays.get(f"{ZCA}/eps")
    return Header(
        path=file.path,
        size=file.size,
        version=file.version,
        written_by=file.written_by,
        checksum=file.checksum,
        shape=(count, channels, height, width),
        labels=store_codec.decode_labels(arrays),
        class_names=store_codec.decode_names(arrays),
        mean=tuple(arrays["preprocessing/mean"].tolist()),
        std=tuple(arrays["preprocessing/std"].tolist()),
        zca_eps=None if eps is None else float(eps),
        provenance=store_codec.decode_provenance(arrays),
    )


def open_dataset(path: str | Path) -> StoredImages:
    """A lazy view of a file that was verified once, here. Raises StoreError."""
    target = Path(path).absolute()
    with opened(target) as file:
        arrays = _verified(file)
        return StoredImages(
            target,
            shape=file.shapes()["images"][1],
            offset=file.objects["images"].id.get_offset() or 0,
            file_identity=file.identity,
            labels=store_codec.decode_labels(arrays),
            class_names=store_codec.decode_names(arrays),
            preprocessing=store_codec.decode_preprocessing(arrays),
            provenance=store_codec.decode_provenance(arrays),
        )

"""Files of synthetic sets: written, read, verified, opened lazily. docs/file-format.md is normative."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from atom_plugin.errors import StoreError
from atom_plugin.runtime.files import refuse_existing, write_bytes
from atom_plugin.store import codec
from atom_plugin.store.codec import SetFields
from atom_plugin.store.hdf5_reader import StoreFile, open_checked
from atom_plugin.store.hdf5_writer import serialise
from atom_plugin.store.paths import located, portable
from atom_plugin.store.provenance import Provenance
from atom_plugin.store.schema import LEARNER_LOGITS, ZCA, Arrays, SchemaError, check_shapes, check_values
from atom_plugin.store.soft_labels import SoftLabels
from atom_plugin.store.torch_dataset import StoredImages


def write_fields(
    fields: SetFields,
    path: str | Path,
    *,
    force: bool = False,
    keep_paths: bool = False,
    logits: torch.Tensor | None = None,
) -> None:
    """Write a set to ``path``, atomically; equal sets give equal bytes. Takes the set's size in memory again.

    The file has the folder of the source's images as :mod:`atom_plugin.store.paths` describes, or with ``keep_paths`` its
    absolute path. ``logits``, float16 (N, tiles, classes), are those of a replay memory, which :func:`read_logits` returns.

    Raises StoreError if the file exists (unless ``force``), cannot be written, or the set cannot be stored: pixels that are not
    finite, class names that are not Unicode, a config that is not JSON. Then nothing is written.
    """
    target = Path(path)
    refuse_existing(target, force=force)
    if not keep_paths:
        fields = {**fields, "provenance": portable(fields["provenance"], target.parent)}
    try:
        arrays = codec.encode(fields)
        if logits is not None:
            arrays[LEARNER_LOGITS] = logits.numpy()
        check_shapes({key: (array.dtype.str, array.shape) for key, array in arrays.items()})
        check_values(arrays, [arrays["images"]], arrays["images"].shape[1:])
    except SchemaError as error:
        raise StoreError(f"{target}: not written: {error}; correct the set first") from error
    write_bytes(target, serialise(arrays), force=force)


def read_fields(path: str | Path) -> SetFields:
    """Read a whole set, with every check of :func:`verify`. Raises StoreError."""
    with open_checked(Path(path)) as file:
        check_shapes(file.shapes(), version=file.version)
        arrays = file.arrays()
        file.verify_checksum(arrays)
        check_values(arrays, [arrays["images"]], arrays["images"].shape[1:])
        fields = codec.decode(arrays)
    return {**fields, "provenance": located(fields["provenance"], Path(path).parent)}


def read_logits(path: str | Path) -> torch.Tensor | None:
    """The logits of a replay memory's file, float16 (N, tiles, classes); None if it has none. Raises StoreError."""
    with open_checked(Path(path)) as file:
        if LEARNER_LOGITS not in file.shapes():
            return None
        arrays = _verified(file)
        return torch.from_numpy(arrays[LEARNER_LOGITS].astype("=f2", copy=False))


@dataclass(frozen=True, kw_only=True, eq=False)
class SetHeader:
    """The contents of a file except pixels and ZCA matrix: ``shape`` is (N, C, H, W), ``labels`` int64 (N,), ``mean`` and
    ``std`` float per channel, ``zca_eps`` None without whitening, ``size`` the file's in bytes. ``storage``, ``factor``,
    ``prefixes``, ``soft_labels`` and ``learned_lr`` are those of :class:`~atom_plugin.store.synthetic_set.SyntheticSet`.
    """

    path: Path
    size: int
    version: int
    written_by: str
    checksum: str
    shape: tuple[int, int, int, int]
    storage: str
    factor: int
    prefixes: tuple[int, ...]
    labels: torch.Tensor
    soft_labels: SoftLabels | None
    learned_lr: float | None
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    zca_eps: float | None
    provenance: Provenance

    @property
    def image_bytes(self) -> int:
        """Bytes of the images alone."""
        return math.prod(self.shape) * np.dtype(self.storage).itemsize

    @property
    def soft_label_bytes(self) -> int:
        """Bytes of the soft labels alone."""
        return 0 if self.soft_labels is None else self.soft_labels.nbytes

    @property
    def counts(self) -> dict[int, int]:
        """Stored images by class id, for the classes that have any."""
        return dict(sorted(Counter(self.labels.tolist()).items()))


def read_header(path: str | Path) -> SetHeader:
    """Read everything except pixels and ZCA matrix, without checking the checksum. Raises StoreError."""
    with open_checked(Path(path)) as file:
        check_shapes(file.shapes(), version=file.version)
        arrays = file.arrays(but=("images", f"{ZCA}/matrix"))
        shape = file.shapes()["images"][1]
        check_values(arrays, [], shape[1:])
        return _read_header_fields(file, arrays)


def verify(path: str | Path) -> SetHeader:
    """Check everything: HDF5, format, version, types, shapes, the checksum, finite values, labels.

    Reads in blocks, so that a set larger than memory can be checked. Raises StoreError for the first error.
    """
    with open_checked(Path(path)) as file:
        return _read_header_fields(file, _verified(file))


def _verified(file: StoreFile) -> Arrays:
    """All arrays except the images, with every check."""
    check_shapes(file.shapes(), version=file.version)
    arrays = file.arrays(but=("images",))
    file.verify_checksum(arrays)
    check_values(arrays, file.blocks("images"), file.shapes()["images"][1][1:])
    return arrays


def _read_header_fields(file: StoreFile, arrays: Arrays) -> SetHeader:
    count, channels, height, width = file.shapes()["images"][1]
    eps = arrays.get(f"{ZCA}/eps")
    return SetHeader(
        path=file.path,
        size=file.size,
        version=file.version,
        written_by=file.written_by,
        checksum=file.checksum,
        shape=(count, channels, height, width),
        storage=np.dtype(file.shapes()["images"][0]).name,
        factor=codec.decode_factor(arrays),
        prefixes=codec.decode_prefixes(arrays),
        labels=codec.decode_labels(arrays),
        soft_labels=codec.decode_soft_labels(arrays),
        learned_lr=codec.decode_learned_lr(arrays),
        class_names=codec.decode_names(arrays),
        mean=tuple(arrays["preprocessing/mean"].tolist()),
        std=tuple(arrays["preprocessing/std"].tolist()),
        zca_eps=None if eps is None else float(eps),
        provenance=codec.decode_provenance(arrays),
    )


def open_dataset(path: str | Path) -> StoredImages:
    """A lazy view of a file, which is verified once here. Raises StoreError."""
    target = Path(path).absolute()
    with open_checked(target) as file:
        arrays = _verified(file)
        dtype, shape = file.shapes()["images"]
        return StoredImages(
            target,
            dtype=dtype,
            shape=shape,
            offset=file.objects["images"].id.get_offset() or 0,
            file_identity=file.identity,
            factor=codec.decode_factor(arrays),
            labels=codec.decode_labels(arrays),
            soft_labels=codec.decode_soft_labels(arrays),
            class_names=codec.decode_names(arrays),
            preprocessing=codec.decode_preprocessing(arrays),
            provenance=located(codec.decode_provenance(arrays), target.parent),
        )

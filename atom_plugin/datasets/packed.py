"""The file of a packed source: decoded uint8 images in one HDF5 file, laid out so that rows can be read without HDF5.

``/images`` uint8 (N, C, H, W), the training images first, is contiguous and begins at a multiple of 4096: image i is at byte
``offset + i * C * H * W``, for a memory mapping or a plain read. Reading an image then needs no lock and no decompression, and
leaves nothing in HDF5's chunk cache; docs/large-sources.md describes the format and has measurements.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from h5py import h5d, h5p, h5s, h5t

from atom_plugin.datasets import SourceData, SourceRequest, Split, takes
from atom_plugin.datasets.common import content_digest, stored_options
from atom_plugin.datasets.mapped import MappedImages
from atom_plugin.errors import ConfigError, SourceError
from atom_plugin.runtime import bounded_json

FORMAT, VERSION = "atom_plugin packed images", 1
FILE_NAME = "images.h5"
# Sources with more bytes of pixels than this stay on disk, mapped; smaller ones are read into memory and verified.
MAPPED_BYTES = 2**30
_PAGE = 4096
_REMEDY = "remove it and make it again"


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The contents of a packed file except the pixels. ``image_shape`` is (C, H, W); labels are int64, class ids from 0."""

    class_names: tuple[str, ...]
    train_labels: Sequence[int]
    test_labels: Sequence[int]
    image_shape: tuple[int, int, int]

    @property
    def count(self) -> int:
        """The number of training and test images."""
        return len(self.train_labels) + len(self.test_labels)

    @property
    def pixel_bytes(self) -> int:
        """The bytes of all images."""
        return self.count * math.prod(self.image_shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class Header:
    """The metadata of a file. ``offset``: the byte at which the pixels begin; ``progress``: the byte of the progress mark.

    ``digest`` is the digest of images, labels and class names, None while the file is being written.
    """

    contents: Contents
    offset: int
    progress: int
    digest: str | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Packed:
    """A file's images, mapped or in memory."""

    train: Split
    test: Split
    class_names: tuple[str, ...]
    digest: str


@takes("data_dir", "image_size")
def load_packed(request: SourceRequest) -> SourceData:
    """A folder with a packed source, images.h5: decoded images of any number, read from disk when needed.

    Raises ConfigError without ``data_dir``, SourceError for a missing, unfinished or damaged file, and for an ``image_size``
    other than the file's.
    """
    if request.data_dir is None:
        raise ConfigError(f"the packed source needs the folder of its {FILE_NAME}; pass --data-dir DIR (data_dir=)")
    path = request.data_dir.absolute() / FILE_NAME
    packed = read(path)
    sides = tuple(packed.train.images.shape[2:])
    if request.image_size is not None and sides != (request.image_size, request.image_size):
        raise SourceError(
            f"{path} has images of {sides[1]}x{sides[0]}, not of {request.image_size}x{request.image_size}; leave "
            "--image-size (image_size=) out"
        )
    return SourceData(
        name="packed",
        train=packed.train,
        test=packed.test,
        class_names=packed.class_names,
        fingerprint=packed.digest,
        options=stored_options(request, data_dir=str(path.parent)),
    )


def read(path: Path) -> Packed:
    """The finished file ``path``. Raises SourceError, in one line, for anything else.

    Above :data:`MAPPED_BYTES` the images are mapped and the digest is not checked, because a check would read everything at
    every start; below it they are read into memory and checked.
    """
    header = read_header(path)
    if header.digest is None:
        raise SourceError(f"{path} is unfinished: its writing stopped before the end; {_REMEDY}")
    train, test = mapped_splits(path, header)
    names = header.contents.class_names
    if header.contents.pixel_bytes <= MAPPED_BYTES:
        train, test = _in_memory(train), _in_memory(test)
        if content_digest(train, test, names) != header.digest:
            raise SourceError(f"{path} does not match its digest; {_REMEDY}")
    return Packed(train=train, test=test, class_names=names, digest=header.digest)


def mapped_splits(path: Path, header: Header) -> tuple[Split, Split]:
    """Both splits as views of the file, finished or not."""
    contents, train_count = header.contents, len(header.contents.train_labels)
    train = _images(path, header, 0, train_count)
    test = _images(path, header, train_count, len(contents.test_labels))
    return (
        Split(images=train.tensor, labels=torch.as_tensor(contents.train_labels), mapped=train),
        Split(images=test.tensor, labels=torch.as_tensor(contents.test_labels), mapped=test),
    )


def read_header(path: Path) -> Header:
    """The metadata. Raises SourceError for a file that is missing, damaged, or of another kind."""
    try:
        # Finished files are only ever replaced whole, so no lock is needed; some network file systems have none.
        with h5py.File(path, "r", locking=False) as file:
            return _header(path, file)
    except FileNotFoundError:
        raise SourceError(f"there is no {path}; expected a file of decoded images there") from None
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        cause = " ".join(str(error).split())
        raise SourceError(f"{path} is damaged or not a file of decoded images ({cause}); {_REMEDY}") from error


def _header(path: Path, file: Any) -> Header:
    if file.attrs.get("format") != FORMAT:
        raise ValueError(f"its format is {file.attrs.get('format')!r}, expected {FORMAT!r}")
    if int(file.attrs["version"]) != VERSION:
        raise SourceError(f"{path} has format version {file.attrs['version']}, this release reads {VERSION}; update")
    images, labels = file["images"], [file[f"labels/{split}"] for split in ("train", "test")]
    if images.ndim != 4 or images.dtype != np.uint8 or images.chunks is not None:
        raise ValueError("its images are not contiguous uint8 (N, C, H, W)")
    if any(item.ndim != 1 or item.dtype != np.int64 for item in labels) or len(images) != sum(map(len, labels)):
        raise ValueError(f"it has {len(images)} images and labels of {[item.shape for item in labels]}")
    if images.size + file["class_names"].size > path.stat().st_size:
        raise ValueError(f"it is truncated: {len(images)} images take more than its {path.stat().st_size} bytes")
    channels, height, width = (int(size) for size in images.shape[1:])
    contents = Contents(
        class_names=tuple(map(str, bounded_json.parse(file["class_names"][()].tobytes()))),
        train_labels=labels[0][()],
        test_labels=labels[1][()],
        image_shape=(channels, height, width),
    )
    digest = file.attrs.get("digest")
    return Header(
        contents=contents,
        offset=images.id.get_offset(),
        progress=file["progress"].id.get_offset(),
        digest=None if digest is None else str(digest),
    )


def create(path: Path, contents: Contents) -> None:
    """An unfinished file with room for all images. Raises OSError if it cannot be made.

    HDF5 is closed before any pixel is written, so the structure stays valid if the writing stops.
    """
    with h5py.File(path, "w", locking=False, alignment_threshold=_PAGE, alignment_interval=_PAGE) as file:
        file.attrs["format"], file.attrs["version"] = FORMAT, VERSION
        file["class_names"] = np.frombuffer(json.dumps(contents.class_names).encode(), np.uint8)
        file["labels/train"] = np.asarray(contents.train_labels, np.int64)
        file["labels/test"] = np.asarray(contents.test_labels, np.int64)
        _room(file, b"progress", (2,), h5t.STD_I64LE)
        file["progress"][...] = 0
        _room(file, b"images", (contents.count, *contents.image_shape), h5t.STD_U8LE)


def _room(file: Any, name: bytes, shape: tuple[int, ...], kind: Any) -> None:
    """A contiguous dataset that is allocated at once, but not filled."""
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_layout(h5d.CONTIGUOUS)
    properties.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5d.FILL_TIME_NEVER)
    h5d.create(file.id, name, kind, h5s.create_simple(shape), properties)


def _in_memory(split: Split) -> Split:
    return Split(images=split.rows(torch.arange(len(split))), labels=split.labels)


def _images(path: Path, header: Header, start: int, count: int) -> MappedImages:
    shape = header.contents.image_shape
    return MappedImages(path, offset=header.offset + start * math.prod(shape), count=count, image_shape=shape)

"""Images for benchmarks on machines without a network: a folder, an archive of one, or arrays in an .npz file."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from atom_plugin.datasets import SourceData, SourceRequest, Split, load_source
from atom_plugin.errors import SourceError

_ARRAYS = ("trainx", "trainy", "testx", "testy")


def load_images(path: str | None) -> SourceData:
    """The images at ``path``; the digits without one.

    A folder has train/<class>/ and test/<class>/; an archive (.tar.xz, .zip) has the content of such a folder, and is unpacked
    among the temporary files until this process ends; an .npz has uint8 trainx and testx (N, C, H, W), and their labels trainy
    and testy.
    """
    if path is None:
        return load_source("digits", SourceRequest())
    where = Path(path)
    if not where.exists():
        raise SourceError(f"{path}: no such file or folder; give a folder, an archive of one, or an .npz file")
    if where.suffix == ".npz":
        return _from_arrays(where)
    if where.is_dir():
        return load_source("folder", SourceRequest(data_dir=where))
    unpacked = tempfile.mkdtemp(prefix="atom-plugin-images-")
    atexit.register(shutil.rmtree, unpacked, ignore_errors=True)
    try:
        shutil.unpack_archive(where, unpacked)
    except (shutil.ReadError, ValueError) as error:
        raise SourceError(f"{path}: neither a folder nor an archive that can be unpacked ({error})") from None
    found = Path(unpacked)
    while not (found / "train").is_dir() and len(inside := [item for item in found.iterdir() if item.is_dir()]) == 1:
        found = inside[0]
    return load_source("folder", SourceRequest(data_dir=found, cache_dir=Path(unpacked) / "cache"))


def _from_arrays(path: Path) -> SourceData:
    with np.load(path) as held:
        if missing := [name for name in _ARRAYS if name not in held]:
            raise SourceError(f"{path}: has no array {missing[0]!r}; expected {', '.join(_ARRAYS)}")
        arrays = [torch.from_numpy(held[name]) for name in _ARRAYS]
    train, test = (
        Split(images=images.contiguous(), labels=labels.long())
        for images, labels in zip(arrays[::2], arrays[1::2], strict=True)
    )
    names = tuple(f"class {k}" for k in range(int(train.labels.max()) + 1))
    return SourceData(name=path.stem, train=train, test=test, class_names=names, fingerprint=path.stem, options={})

"""Datasets of torchvision: MNIST, Fashion-MNIST, SVHN, CIFAR-10 and CIFAR-100, in their own splits."""

from __future__ import annotations

import contextlib
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atom_plugin.datasets import SourceData, SourceRequest, Split, takes
from atom_plugin.datasets.common import content_digest, downloads_dir, stored_options
from atom_plugin.datasets.pixels import resize_all
from atom_plugin.errors import SourceError
from atom_plugin.runtime.progress import bars_of_terminals

_DIGITS = tuple(str(digit) for digit in range(10))
_IDX_FILES = (
    "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz "
    "(or the four unpacked, without .gz)"
)
_CONNECT_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class _Known:
    """``reader`` is the class in torchvision.datasets; ``files`` lists what a user without a network must provide.

    ``class_names`` None means that the set's own files name them. ``mean`` and ``std`` are the constants of the distillation
    literature.
    """

    name: str
    reader: str
    files: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] | None = None
    splits: tuple[dict[str, Any], dict[str, Any]] = ({"train": True}, {"train": False})

    def read(self, root: Path, *, download: bool) -> tuple[Any, Any]:
        """torchvision's training and test set."""
        import torchvision.datasets

        reader = getattr(torchvision.datasets, self.reader)
        train, test = self.splits
        # Some versions print "Files already downloaded and verified"; stdout is for results.
        with contextlib.redirect_stdout(sys.stderr), bars_of_terminals(), _impatient_sockets():
            return reader(str(root), **train, download=download), reader(str(root), **test, download=download)


@takes("data_dir", "download", "image_size")
def load_mnist(request: SourceRequest) -> SourceData:
    """MNIST: 28x28 grey handwritten digits, 10 classes, 60,000 + 10,000 images."""
    return _load(
        request,
        _Known(
            name="mnist",
            reader="MNIST",
            files=f"{_IDX_FILES} into {{root}}/MNIST/raw/",
            mean=(0.1307,),
            std=(0.3081,),
            class_names=_DIGITS,
        ),
    )


@takes("data_dir", "download", "image_size")
def load_fashion_mnist(request: SourceRequest) -> SourceData:
    """Fashion-MNIST: 28x28 grey pictures of clothes, 10 classes, 60,000 + 10,000 images."""
    return _load(
        request,
        _Known(
            name="fashion-mnist",
            reader="FashionMNIST",
            files=f"{_IDX_FILES} into {{root}}/FashionMNIST/raw/",
            mean=(0.2861,),
            std=(0.3530,),
        ),
    )


@takes("data_dir", "download", "image_size")
def load_svhn(request: SourceRequest) -> SourceData:
    """SVHN: 32x32 colour house numbers, 10 classes, 73,257 + 26,032 images."""
    return _load(
        request,
        _Known(
            name="svhn",
            reader="SVHN",
            files="train_32x32.mat and test_32x32.mat into {root}",
            mean=(0.4377, 0.4438, 0.4728),
            std=(0.1980, 0.2010, 0.1970),
            class_names=_DIGITS,
            splits=({"split": "train"}, {"split": "test"}),
        ),
    )


@takes("data_dir", "download", "image_size")
def load_cifar10(request: SourceRequest) -> SourceData:
    """CIFAR-10: 32x32 colour photographs, 10 classes, 50,000 + 10,000 images."""
    return _load(
        request,
        _Known(
            name="cifar10",
            reader="CIFAR10",
            files="cifar-10-python.tar.gz (or the unpacked folder cifar-10-batches-py/) into {root}",
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2023, 0.1994, 0.2010),
        ),
    )


@takes("data_dir", "download", "image_size")
def load_cifar100(request: SourceRequest) -> SourceData:
    """CIFAR-100: 32x32 colour photographs, 100 classes, 50,000 + 10,000 images."""
    return _load(
        request,
        _Known(
            name="cifar100",
            reader="CIFAR100",
            files="cifar-100-python.tar.gz (or the unpacked folder cifar-100-python/) into {root}",
            mean=(0.5071, 0.4866, 0.4409),
            std=(0.2673, 0.2564, 0.2762),
        ),
    )


def _load(request: SourceRequest, known: _Known) -> SourceData:
    root = (request.data_dir or downloads_dir()).absolute()
    train_set, test_set = _present_or_downloaded(known, root, request)
    train, test = _split(train_set, request.image_size), _split(test_set, request.image_size)
    class_names = known.class_names or tuple(train_set.classes)
    return SourceData(
        name=known.name,
        train=train,
        test=test,
        class_names=class_names,
        fingerprint=content_digest(train, test, class_names),
        mean=known.mean,
        std=known.std,
        options=stored_options(request, data_dir=str(root) if request.data_dir else None),
    )


def _present_or_downloaded(known: _Known, root: Path, request: SourceRequest) -> tuple[Any, Any]:
    # The readers raise RuntimeError for absent files, and whatever their parser trips over for damaged ones.
    if not request.download:
        with contextlib.suppress(Exception):
            return known.read(root, download=False)
    if request.offline:
        raise SourceError(
            f"{known.name} is not in {root}, or damaged there, and is not downloaded without --download; name its "
            "folder with --data-dir (data_dir=), or download it with --download"
        )
    try:
        # In place, torchvision also unpacks an archive that the user has put there.
        return _downloaded_anew(known, root) if request.download else known.read(root, download=True)
    except Exception as error:
        raise SourceError(
            f"{known.name} is missing or damaged in {root}, and it could not be downloaded ({_one_line(error)}). "
            f"Remove what is damaged and put {known.files.format(root=root)}, or name another folder with --data-dir"
        ) from error


def _downloaded_anew(known: _Known, root: Path) -> tuple[Any, Any]:
    """Download next to the existing files, and replace them only by files that could be read."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as staging:
        sets = known.read(Path(staging), download=True)
        for fresh in Path(staging).iterdir():
            old = root / fresh.name
            if old.is_dir():
                shutil.rmtree(old)
            fresh.replace(old)
    return sets


def _split(dataset: Any, image_size: int | None) -> Split:
    # MNIST holds a uint8 tensor (N, H, W), SVHN an array (N, C, H, W), CIFAR an array (N, H, W, C).
    pixels = np.asarray(dataset.data)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.shape[-1] == 3:
        pixels = np.moveaxis(pixels, -1, 1)
    if image_size is not None:
        pixels = resize_all(pixels, image_size)
    labels = np.asarray(dataset.labels if hasattr(dataset, "labels") else dataset.targets, dtype=np.int64)
    return Split(images=torch.from_numpy(np.ascontiguousarray(pixels)), labels=torch.from_numpy(labels))


@contextlib.contextmanager
def _impatient_sockets() -> Iterator[None]:
    """Give up on a silent server: behind a firewall that drops packets, urllib would wait for minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_CONNECT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]

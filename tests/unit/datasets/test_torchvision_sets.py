"""torchvision's sets, from tiny files in each set's own format; nothing is fetched."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision.datasets as tv

from atom_plugin.datasets import SourceData, SourceRequest, load_source, reload_source
from atom_plugin.datasets.common import downloads_dir
from atom_plugin.errors import SourceError

Array = npt.NDArray[Any]
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 28, 28), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
TRAIN_LABELS, TEST_LABELS = [3, 0, 9, 1], [7, 0]


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No test reaches a network; the list holds what was asked for."""
    asked: list[str] = []

    def unreachable(request: urllib.request.Request, *_: Any, **__: Any) -> None:
        asked.append(request.full_url)
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    return asked


def write_idx(folder: Path, *, pack: bool = False) -> dict[str, str]:
    """The four files of MNIST's format; their names and md5 sums."""
    folder.mkdir(parents=True, exist_ok=True)
    sums = {}
    for stem, images, labels in (("train", GREY[:4], TRAIN_LABELS), ("t10k", GREY[4:], TEST_LABELS)):
        parts = {
            f"{stem}-images-idx3-ubyte": struct.pack(">4i", 2051, *images.shape) + images.tobytes(),
            f"{stem}-labels-idx1-ubyte": struct.pack(">2i", 2049, len(labels)) + bytes(labels),
        }
        for name, data in parts.items():
            written = folder / (f"{name}.gz" if pack else name)
            written.write_bytes(gzip.compress(data) if pack else data)
            sums[f"{name}.gz"] = hashlib.md5(written.read_bytes()).hexdigest()
    return sums


def write_svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat

    root.mkdir(parents=True, exist_ok=True)
    splits = {}
    for split, images, labels in (("train", COLOUR[:4], TRAIN_LABELS), ("test", COLOUR[4:], TEST_LABELS)):
        ten_for_zero = np.array([[label or 10] for label in labels], dtype=np.uint8)
        savemat(root / f"{split}_32x32.mat", {"X": images.transpose(2, 3, 1, 0), "y": ten_for_zero})
        splits[split] = ["http://nowhere/", f"{split}_32x32.mat", None]
    monkeypatch.setattr(tv.SVHN, "split_list", splits)


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch, *, hundred: bool = False) -> None:
    reader = tv.CIFAR100 if hundred else tv.CIFAR10
    folder = root / reader.base_folder
    folder.mkdir(parents=True)
    key, names_key = ("fine_labels", "fine_label_names") if hundred else ("labels", "label_names")

    def write(name: str, content: dict[str, Any]) -> list[str | None]:
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        return [name, None]

    def batch(images: Array, labels: list[int]) -> dict[str, Any]:
        return {"data": images.reshape(len(images), -1), key: labels}

    train = ["train"] if hundred else ["data_batch_1", "data_batch_2"]
    chunks = np.array_split(np.arange(4), len(train))
    lists = [
        write(name, batch(COLOUR[at], [TRAIN_LABELS[i] for i in at])) for name, at in zip(train, chunks, strict=True)
    ]
    monkeypatch.setattr(reader, "train_list", lists)
    monkeypatch.setattr(reader, "test_list", [write(reader.test_list[0][0], batch(COLOUR[4:], TEST_LABELS))])
    write(reader.meta["filename"], {names_key: [f"name {index}" for index in range(100 if hundred else 10)]})
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": None})


def check(data: SourceData, pixels: Array, classes: int) -> None:
    assert np.array_equal(data.train.images.numpy(), pixels[:4])
    assert np.array_equal(data.test.images.numpy(), pixels[4:])
    assert data.train.labels.tolist() == TRAIN_LABELS
    assert data.test.labels.tolist() == TEST_LABELS
    assert len(data.class_names) == classes
    assert data.mean is not None and data.std is not None
    assert len(data.mean) == len(data.std) == data.image_shape[0]


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_idx_files(tmp_path: Path, network: list[str], name: str, folder: str) -> None:
    write_idx(tmp_path / folder / "raw")
    data = load_source(name, SourceRequest(data_dir=tmp_path))
    check(data, GREY[:, None], 10)
    assert data.class_names[9] == ("9" if name == "mnist" else "Ankle boot")
    assert data.mean == ((0.1307,) if name == "mnist" else (0.2861,))
    assert network == []


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: list[str]) -> None:
    write_svhn(tmp_path, monkeypatch)
    data = load_source("svhn", SourceRequest(data_dir=tmp_path))
    check(data, COLOUR, 10)
    assert data.class_names == tuple("0123456789")
    assert data.train.images.is_contiguous()
    assert network == []


@pytest.mark.parametrize("hundred", [False, True])
def test_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: list[str], hundred: bool) -> None:
    write_cifar(tmp_path, monkeypatch, hundred=hundred)
    data = load_source("cifar100" if hundred else "cifar10", SourceRequest(data_dir=tmp_path))
    check(data, COLOUR, 100 if hundred else 10)
    assert data.class_names[1] == "name 1"
    assert data.mean == ((0.5071, 0.4866, 0.4409) if hundred else (0.4914, 0.4822, 0.4465))
    assert network == []


def test_archives_put_there_by_hand_are_unpacked_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: list[str]
) -> None:
    sums = write_idx(tmp_path / "MNIST" / "raw", pack=True)
    monkeypatch.setattr(tv.MNIST, "resources", list(sums.items()))
    check(load_source("mnist", SourceRequest(data_dir=tmp_path)), GREY[:, None], 10)

    write_cifar(tmp_path / "made", monkeypatch)
    (tmp_path / "cifar").mkdir()
    archive = tmp_path / "cifar" / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "made" / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(tv.CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    check(load_source("cifar10", SourceRequest(data_dir=tmp_path / "cifar")), COLOUR, 10)
    assert network == []


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("mnist", "train-images-idx3-ubyte.gz, .* into {root}/MNIST/raw/"),
        ("fashion-mnist", "train-images-idx3-ubyte.gz, .* into {root}/FashionMNIST/raw/"),
        ("svhn", "train_32x32.mat and test_32x32.mat into {root}"),
        ("cifar10", r"cifar-10-python.tar.gz \(or the unpacked folder cifar-10-batches-py/\) into {root}"),
        ("cifar100", r"cifar-100-python.tar.gz \(or the unpacked folder cifar-100-python/\) into {root}"),
    ],
)
@pytest.mark.parametrize("download", [False, True])
def test_offline_says_which_files_to_put_where(
    tmp_path: Path, network: list[str], capsys: pytest.CaptureFixture[str], name: str, files: str, download: bool
) -> None:
    with pytest.raises(SourceError, match=files.format(root=tmp_path)) as caught:
        load_source(name, SourceRequest(data_dir=tmp_path, download=download))
    assert "Name or service not known" in str(caught.value) and "\n" not in str(caught.value)
    assert network
    assert capsys.readouterr().out == ""


def test_the_default_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    write_idx(downloads_dir() / "MNIST" / "raw")
    data = load_source("mnist", SourceRequest())
    assert data.options == {}
    assert reload_source("mnist", data.options).fingerprint == data.fingerprint


def test_resized_and_reloaded_elsewhere(tmp_path: Path) -> None:
    write_idx(tmp_path / "here" / "MNIST" / "raw")
    write_idx(tmp_path / "there" / "MNIST" / "raw")
    data = load_source("mnist", SourceRequest(data_dir=tmp_path / "here", image_size=32))
    assert data.image_shape == (1, 32, 32)
    assert data.options == {"data_dir": str(tmp_path / "here"), "image_size": 32}
    again = reload_source("mnist", data.options, SourceRequest(data_dir=tmp_path / "there"))
    assert again.fingerprint == data.fingerprint
    assert torch.equal(again.test.images, data.test.images)


def test_what_a_set_names_is_neither_created_nor_fetched(tmp_path: Path, network: list[str]) -> None:
    named = tmp_path / "of-somebody-else"
    with pytest.raises(SourceError, match=r"--data-dir.*--download"):
        reload_source("cifar10", {"data_dir": str(named)})
    assert not named.exists() and not network
    with pytest.raises(SourceError, match="could not be downloaded"):
        reload_source("cifar10", {"data_dir": str(named)}, SourceRequest(data_dir=tmp_path / "mine"))
    assert not named.exists() and network


def test_a_damaged_file_is_an_error_that_names_the_files(tmp_path: Path) -> None:
    write_idx(tmp_path / "MNIST" / "raw")
    damaged = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(SourceError, match="missing or damaged"):
        load_source("mnist", SourceRequest(data_dir=tmp_path))


def serving(monkeypatch: pytest.MonkeyPatch, fill: Callable[[Path], None]) -> None:
    """Let MNIST's download put files under its root, and talk on stdout as some versions do."""

    def download(self: tv.MNIST) -> None:
        sys.stdout.write("Files already downloaded and verified\n")
        fill(Path(self.raw_folder))

    monkeypatch.setattr(tv.MNIST, "download", download)


def test_missing_files_are_downloaded_without_a_word_on_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serving(monkeypatch, lambda folder: write_idx(folder) and None)
    check(load_source("mnist", SourceRequest(data_dir=tmp_path / "new")), GREY[:, None], 10)
    out, err = capsys.readouterr()
    assert out == "" and "already downloaded" in err


def test_download_replaces_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw)
    damaged = raw / "train-images-idx3-ubyte"
    damaged.write_bytes(b"")
    (tmp_path / "mine.txt").write_text("keep")
    serving(monkeypatch, lambda folder: write_idx(folder) and None)
    check(load_source("mnist", SourceRequest(data_dir=tmp_path, download=True)), GREY[:, None], 10)
    assert damaged.stat().st_size > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["MNIST", "mine.txt"]


def test_a_failed_download_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "MNIST" / "raw")

    def broken(folder: Path) -> None:
        write_idx(folder)
        raise OSError("connection reset")

    serving(monkeypatch, broken)
    with pytest.raises(SourceError, match="connection reset"):
        load_source("mnist", SourceRequest(data_dir=tmp_path, download=True))
    assert [path.name for path in tmp_path.iterdir()] == ["MNIST"]
    check(load_source("mnist", SourceRequest(data_dir=tmp_path)), GREY[:, None], 10)


def test_an_unwritable_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    for download in (False, True):
        with pytest.raises(SourceError, match="cifar-10-python"):
            load_source("cifar10", SourceRequest(data_dir=tmp_path / "taken", download=download))


def test_stdout_is_untouched_by_a_reader_that_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cifar(tmp_path, monkeypatch)
    honest = tv.CIFAR10._check_integrity

    def talkative(self: tv.CIFAR10) -> bool:
        sys.stdout.write("Files already downloaded and verified\n")
        return honest(self)

    monkeypatch.setattr(tv.CIFAR10, "_check_integrity", talkative)
    load_source("cifar10", SourceRequest(data_dir=tmp_path))
    assert capsys.readouterr().out == ""

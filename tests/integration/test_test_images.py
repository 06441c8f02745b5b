"""Which images a set is tested on: none that it was made of, and none that its file alone would have fetched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atom_plugin.cli.main import main
from atom_plugin.store import SyntheticSet

QUICK = ("--quiet", "--device", "cpu", "--precision", "float32")
READERS = {
    "evaluate": ("consume", "evaluate", "set.h5", "--epochs", "1", "--repeats", "1", *QUICK),
    "score": ("consume", "score", "set.h5", "--epochs", "1", "--repeats", "1", "--full-epochs", "1", *QUICK),
    "show": ("store", "show", "set.h5", "--embedding", "pca", "--network-state", "random", *QUICK),
    "replay": ("consume", "replay", "--memory", "set.h5", "--ipc", "1", "--steps", "2", "--epochs", "1", *QUICK),
}
FOLDER = ("--dataset", "folder", "--data-dir", "photos", "--cache-dir", "cache")


@pytest.fixture
def photos(inside: Path) -> Path:
    """A folder of two classes without a split, and a set made of its split by seed 0."""
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (inside / "photos" / name).mkdir(parents=True)
        for number in range(10):
            pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(inside / "photos" / name / f"{number}.png")
    assert main(["select", *FOLDER, "--ipc", "1", "--precision", "float32", "-o", "set.h5", "--quiet"]) == 0
    return inside


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that is the answer."""
    capsys.readouterr()
    code = main(list(arguments))
    out, err = capsys.readouterr()
    assert code in (1, 2) and err.count("\n") == 1 and not out, (code, out, err)
    return err


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("other", [("--split-seed", "3"), ("--test-fraction", "0.5")])
def test_another_split_of_the_sets_folder_is_refused(
    photos: Path, capsys: pytest.CaptureFixture[str], reader: str, other: tuple[str, ...]
) -> None:
    told = refused(capsys, *READERS[reader], *FOLDER, *other)
    assert "set.h5" in told and "--split-seed 0 --test-fraction 0.2" in told and " ".join(other) in told


@pytest.mark.parametrize("reader", ["evaluate", "show"])
def test_the_split_of_the_set_is_taken_also_where_the_folder_moved(
    photos: Path, capsys: pytest.CaptureFixture[str], reader: str
) -> None:
    (photos / "photos").rename(photos / "moved")
    moved = ("--data-dir", "moved", "--cache-dir", "cache")
    assert main([*READERS[reader], "--dataset", "folder", *moved, "--split-seed", "0"]) == 0
    if reader == "show":
        (photos / "set.pca.png").unlink()
    assert main([*READERS[reader], *moved]) == 0


def test_training_images_split_anew_are_refused(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "ready").mkdir()
    (photos / "photos").rename(photos / "ready" / "train")
    (photos / "ready" / "test").symlink_to("train")
    ready = ("--dataset", "folder", "--data-dir", "ready", "--cache-dir", "cache")
    assert main(["select", *ready, "--ipc", "1", "--precision", "float32", "-o", "set.h5", "--quiet", "--force"]) == 0
    told = refused(capsys, *READERS["evaluate"], "--dataset", "folder", "--data-dir", "ready/train")
    assert "its own test images" in told and "--split-seed 0" in told


@pytest.mark.parametrize("reader", ["evaluate", "score", "show"])
@pytest.mark.parametrize("name", ["cifar10", "mnist", "svhn"])
def test_a_file_neither_makes_a_folder_nor_starts_a_download(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, reader: str, name: str
) -> None:
    asked: list[object] = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *address, **_: asked.append(address))
    held = SyntheticSet.load("set.h5")
    source = {"name": name, "options": {"data_dir": str(photos / "made" / "by")}, "fingerprint": "0"}
    replace(held, provenance=replace(held.provenance, source=source)).save("set.h5", force=True)
    told = refused(capsys, *READERS[reader])
    assert name in told and "--data-dir" in told and "--download" in told
    assert not (photos / "made").exists() and not asked


@pytest.mark.parametrize("command", ["select", "distill", "merge", "subset", "npz", "pt", "import"])
def test_no_file_names_a_folder_of_this_machine(photos: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    quick = ("--width", "8", "--iterations", "1", "--real-batch", "2")
    made = {
        "select": ("select", *FOLDER, "--ipc", "1", "--precision", "float32", "-o", "out"),
        "distill": ("distill", *FOLDER, "--ipc", "1", *quick, "--precision", "float32", "-o", "out"),
        "merge": ("store", "merge", "set.h5", "set.h5", "-o", "out"),
        "subset": ("store", "subset", "set.h5", "--classes", "cat", "-o", "out"),
        "npz": ("store", "export", "set.h5", "--format", "npz", "-o", "out"),
        "pt": ("store", "export", "set.h5", "--format", "pt", "-o", "out"),
        "import": ("store", "import", "set.pt", "--format", "idc", *FOLDER, "-o", "out"),
    }
    assert main(["store", "export", "set.h5", "--format", "idc", "-o", "set.pt"]) == 0
    assert main(list(made[command])) == 0
    assert str(photos).encode() not in Path("out").read_bytes()
    if command in ("select", "distill", "import"):
        Path("out").rename("relative.h5")
        assert main([*made[command], "--keep-paths"]) == 0
        assert str(photos / "photos").encode() in Path("out").read_bytes()
        assert main([*READERS["evaluate"][:2], "relative.h5", *READERS["evaluate"][3:], "--cache-dir", "cache"]) == 0


def test_another_seed_of_the_validation_images_is_no_other_split(photos: Path) -> None:
    (photos / "photos").rename(photos / "train")
    (photos / "ready").mkdir()
    (photos / "train").rename(photos / "ready" / "train")
    (photos / "ready" / "test").symlink_to("train")
    ready = ("--dataset", "folder", "--data-dir", "ready", "--cache-dir", "cache")
    held_out = ("--validation", "0.2", "--split-seed", "3", "--ipc", "1", "--precision", "float32")
    assert main(["select", *ready, *held_out, "-o", "set.h5", "--quiet", "--force"]) == 0
    assert main([*READERS["evaluate"], *ready]) == 0


def test_a_replay_reads_no_source_but_the_one_that_is_named(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = SyntheticSet.load("set.h5")
    source = {"name": "cifar10", "options": {"data_dir": str(photos / "made")}, "fingerprint": "0"}
    replace(held, provenance=replace(held.provenance, source=source)).save("set.h5", force=True)
    assert "digits" in refused(capsys, *READERS["replay"])
    assert not (photos / "made").exists()

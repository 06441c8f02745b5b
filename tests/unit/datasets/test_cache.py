"""The cache of decoded images: what its key sees, what a damaged or unwritable one does."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from atom_plugin.datasets import cache, packed_writer
from atom_plugin.datasets.common import content_digest
from atom_plugin.datasets.layouts import ImageFile, Layout
from atom_plugin.datasets.packed import Contents
from atom_plugin.datasets.pixels import Decoding, Pixels
from atom_plugin.errors import SourceError

IMAGES = np.arange(3 * 3 * 4 * 4, dtype=np.uint8).reshape(3, 3, 4, 4)
CONTENTS = Contents(class_names=("a", "b"), train_labels=[0, 1], test_labels=[0], image_shape=(3, 4, 4))
LAYOUT = Layout(
    root=Path("/somewhere"),
    class_names=("a", "b"),
    train=[ImageFile("a/1.png", 10, 100), ImageFile("b/1.png", 10, 100)],
    train_labels=[0, 1],
    test=[ImageFile("a/2.png", 10, 100)],
    test_labels=[0],
    seeded=True,
)


def test_the_key_sees_what_decides_the_images_and_not_the_place() -> None:
    key = cache.cache_key(LAYOUT, Decoding())
    assert key == cache.cache_key(replace(LAYOUT, root=Path("/elsewhere")), Decoding())
    others = [
        cache.cache_key(LAYOUT, Decoding(bit_depth=12)),
        cache.cache_key(LAYOUT, Decoding(image_size=32)),
        cache.cache_key(replace(LAYOUT, class_names=("a", "c")), Decoding()),
        cache.cache_key(replace(LAYOUT, test=[ImageFile("a/2.png", 11, 100)]), Decoding()),
        cache.cache_key(replace(LAYOUT, test=[ImageFile("a/2.png", 10, 101)]), Decoding()),
        cache.cache_key(replace(LAYOUT, test=[ImageFile("a/3.png", 10, 100)]), Decoding()),
        cache.cache_key(replace(LAYOUT, test_labels=[1]), Decoding()),
        cache.cache_key(
            replace(
                LAYOUT,
                train=LAYOUT.train[:1],
                train_labels=[0],
                test=[*LAYOUT.train[1:], *LAYOUT.test],
                test_labels=[1, 0],
            ),
            Decoding(),
        ),
    ]
    assert len({key, *others}) == 9


def test_the_key_sees_the_version_of_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    key = cache.cache_key(LAYOUT, Decoding())
    monkeypatch.setattr(cache, "DECODING_VERSION", cache.DECODING_VERSION + 1)
    assert cache.cache_key(LAYOUT, Decoding()) != key


def served(path: Path) -> tuple[np.ndarray, str] | None:
    found = cache.read(path)
    return None if found is None else (torch.cat([found.train.images, found.test.images]).numpy(), found.digest)


def test_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "k.h5"
    assert cache.read(path) is None
    cache.write(path, IMAGES, CONTENTS)
    found = cache.read(path)
    assert found is not None
    assert np.array_equal(found.train.images.numpy(), IMAGES[:2]) and np.array_equal(found.test.images, IMAGES[2:])
    assert found.digest == content_digest(found.train, found.test, ("a", "b"))
    assert [entry.name for entry in path.parent.iterdir()] == ["k.h5"]


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "no images", "no digest", "flipped bit", "a folder"])
def test_a_damaged_cache_counts_as_none(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    import h5py

    path = tmp_path / "k.h5"
    cache.write(path, IMAGES, CONTENTS)
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "text":
        path.write_text("not an HDF5 file")
    elif damage == "a folder":
        path.unlink()
        path.mkdir()
    else:
        with h5py.File(path, "a") as file:
            if damage == "no images":
                del file["images"]
            elif damage == "no digest":
                del file.attrs["digest"]
            else:
                file["images"][1, 0, 0, 0] ^= 1
    with caplog.at_level(logging.INFO, "atom_plugin"):
        assert cache.read(path) is None
    assert "decoding again" in caplog.text
    if damage == "a folder":
        path.rmdir()
    cache.write(path, IMAGES, CONTENTS)
    assert cache.read(path) is not None


def test_an_unwritable_cache_is_only_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    cache.write(tmp_path / "taken" / "k.h5", IMAGES, CONTENTS)
    assert "are not cached" in caplog.text
    assert cache.read(tmp_path / "taken" / "k.h5") is None


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    cache.write(tmp_path / "k.h5", IMAGES, CONTENTS)
    assert list(tmp_path.iterdir()) == []


def test_many_writers_and_readers_of_one_key(tmp_path: Path) -> None:
    path = tmp_path / "k.h5"
    cache.write(path, IMAGES, CONTENTS)
    wrong: list[object] = []

    def work() -> None:
        for _ in range(8):
            cache.write(path, IMAGES, CONTENTS)
            found = served(path)
            if found is None or not np.array_equal(found[0], IMAGES):
                wrong.append(found)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["k.h5"]


def one_by_one(put: Callable[[Pixels], None], skip: int) -> None:
    for image in IMAGES[skip:]:
        put(image[None])


def test_filled_it_is_what_a_write_would_have_been(tmp_path: Path) -> None:
    found = cache.fill(tmp_path / "a" / "k.h5", CONTENTS, one_by_one)
    cache.write(tmp_path / "b" / "k.h5", IMAGES, CONTENTS)
    written = served(tmp_path / "b" / "k.h5")
    assert written is not None and written[1] == found.digest
    assert [entry.name for entry in (tmp_path / "a").iterdir()] == ["k.h5"]


def test_a_stopped_filling_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_writer, "_MARKED", 1)
    path, skipped = tmp_path / "k.h5", []

    def interrupted(put: Callable[[Pixels], None], skip: int) -> None:
        put(IMAGES[:2])
        raise KeyboardInterrupt

    def rest(put: Callable[[Pixels], None], skip: int) -> None:
        skipped.append(skip)
        one_by_one(put, skip)

    with pytest.raises(KeyboardInterrupt):
        cache.fill(path, CONTENTS, interrupted)
    assert not path.exists()
    found = cache.fill(path, CONTENTS, rest)
    assert skipped == [2] and np.array_equal(torch.cat([found.train.images, found.test.images]), IMAGES)


def test_images_that_cannot_be_used_leave_nothing(tmp_path: Path) -> None:
    def fails(put: Callable[[Pixels], None], skip: int) -> None:
        put(IMAGES[:2])
        raise SourceError("1 image file(s) cannot be read")

    with pytest.raises(SourceError, match="cannot be read"):
        cache.fill(tmp_path / "k.h5", CONTENTS, fails)
    assert list(tmp_path.iterdir()) == []


def test_the_second_to_fill_waits_and_takes_what_the_first_made(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    path, began, may_go_on, second = tmp_path / "k.h5", threading.Event(), threading.Event(), []

    def slowly(put: Callable[[Pixels], None], skip: int) -> None:
        began.set()
        may_go_on.wait(10)
        one_by_one(put, skip)

    def refuse(put: Callable[[Pixels], None], skip: int) -> None:
        raise AssertionError("decoded twice")

    first = threading.Thread(target=cache.fill, args=(path, CONTENTS, slowly))
    other = threading.Thread(target=lambda: second.append(cache.fill(path, CONTENTS, refuse)))
    first.start()
    assert began.wait(10)
    other.start()
    time.sleep(0.05)
    may_go_on.set()
    first.join()
    other.join()
    assert len(second) == 1 and np.array_equal(second[0].test.images, IMAGES[2:])


def test_a_killed_filling_leaves_no_lock_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import os, signal, sys, pathlib; sys.path.insert(0, sys.argv[2])\n"
        "from atom_plugin.datasets import cache, packed_writer; import test_cache as here\n"
        "packed_writer._MARKED = 1\n"
        "def decode(put, skip):\n    put(here.IMAGES[:1])\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "cache.fill(pathlib.Path(sys.argv[1]), here.CONTENTS, decode)"
    )
    path, here = tmp_path / "k.h5", Path(__file__).parent
    killed = subprocess.run([sys.executable, "-c", program, str(path), str(here)], check=False, capture_output=True)
    assert killed.returncode == -9 and not path.exists()
    skipped: list[int] = []
    found = cache.fill(path, CONTENTS, lambda put, skip: skipped.append(skip) or one_by_one(put, skip))  # type: ignore[func-returns-value]
    assert skipped == [1] and np.array_equal(found.train.images, IMAGES[:2])
    assert [entry.name for entry in tmp_path.iterdir()] == ["k.h5"]

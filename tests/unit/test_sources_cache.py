"""The cache of decoded images: what its key sees, what a damaged or unwritable one does."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from atom_plugin.sources import cache
from atom_plugin.sources.layouts import ImageFile, Layout

IMAGES = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
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
    key = cache.cache_key(LAYOUT, None)
    assert key == cache.cache_key(replace(LAYOUT, root=Path("/elsewhere")), None)
    others = [
        cache.cache_key(LAYOUT, 32),
        cache.cache_key(replace(LAYOUT, class_names=("a", "c")), None),
        cache.cache_key(replace(LAYOUT, test=[ImageFile("a/2.png", 11, 100)]), None),
        cache.cache_key(replace(LAYOUT, test=[ImageFile("a/2.png", 10, 101)]), None),
        cache.cache_key(replace(LAYOUT, test=[ImageFile("a/3.png", 10, 100)]), None),
        cache.cache_key(replace(LAYOUT, test_labels=[1]), None),
        cache.cache_key(
            replace(
                LAYOUT,
                train=LAYOUT.train[:1],
                train_labels=[0],
                test=[*LAYOUT.train[1:], *LAYOUT.test],
                test_labels=[1, 0],
            ),
            None,
        ),
    ]
    assert len({key, *others}) == 8


def test_the_key_sees_the_version_of_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    key = cache.cache_key(LAYOUT, None)
    monkeypatch.setattr(cache, "DECODING_VERSION", cache.DECODING_VERSION + 1)
    assert cache.cache_key(LAYOUT, None) != key


def test_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "k.h5"
    assert cache.read(path) is None
    cache.write(path, IMAGES, "digest")
    found = cache.read(path)
    assert found is not None
    assert np.array_equal(found[0], IMAGES) and found[0].dtype == np.uint8 and found[1] == "digest"
    assert [entry.name for entry in path.parent.iterdir()] == ["k.h5"]


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "no images", "no digest"])
def test_a_damaged_cache_counts_as_none(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    import h5py

    path = tmp_path / "k.h5"
    cache.write(path, IMAGES, "digest")
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "text":
        path.write_text("not an HDF5 file")
    else:
        with h5py.File(path, "a") as file:
            if damage == "no images":
                del file["images"]
            else:
                del file.attrs["digest"]
    with caplog.at_level(logging.INFO, "atom_plugin"):
        assert cache.read(path) is None
    assert "is damaged" in caplog.text
    cache.write(path, IMAGES, "digest")
    assert cache.read(path) is not None


def test_an_unwritable_cache_is_only_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    cache.write(tmp_path / "taken" / "k.h5", IMAGES, "digest")
    assert "are not cached" in caplog.text
    assert cache.read(tmp_path / "taken" / "k.h5") is None


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    cache.write(tmp_path / "k.h5", IMAGES, "digest")
    assert list(tmp_path.iterdir()) == []


def test_many_writers_and_readers_of_one_key(tmp_path: Path) -> None:
    path = tmp_path / "k.h5"
    cache.write(path, IMAGES, "0")
    wrong: list[object] = []

    def work(number: int) -> None:
        for _ in range(10):
            cache.write(path, IMAGES, f"{number}")
            found = cache.read(path)
            if found is None or not np.array_equal(found[0], IMAGES):
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["k.h5"]

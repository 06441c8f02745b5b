"""The folder source as a user meets it: folders of real image files, decoded, cached, reloaded, and spoilt."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from atom_plugin.datasets import SourceData, SourceRequest, folder, load_source, packed, reload_source
from atom_plugin.errors import ConfigError, SourceError


def picture(path: Path, seed: int, *, size: tuple[int, int] = (6, 6), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two classes of five RGB images each, unsplit."""
    for label, name in enumerate(("cat", "dog")):
        for number in range(5):
            picture(tmp_path / "tree" / name / f"{number}.png", 10 * label + number)
    return tmp_path / "tree"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def load(tree: Path, cache: Path, **options: object) -> SourceData:
    return load_source("folder", SourceRequest(data_dir=tree, cache_dir=cache, **options))  # type: ignore[arg-type]


def same(one: SourceData, other: SourceData) -> bool:
    return one.fingerprint == other.fingerprint and all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
        for a, b in ((one.train, other.train), (one.test, other.test))
    )


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("decoded although the cache should serve")

    monkeypatch.setattr(folder, "decode_all", refuse)
    monkeypatch.setattr(folder, "decode_into", refuse)


def test_images_come_out_as_they_went_in(tree: Path, cache: Path) -> None:
    data = load(tree, cache)
    assert data.class_names == ("cat", "dog") and data.image_shape == (3, 6, 6)
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4
    assert data.test.labels.tolist() == [0, 1]
    assert data.mean is None and data.std is None
    files = {np.asarray(Image.open(path)).transpose(2, 0, 1).tobytes() for path in tree.rglob("*.png")}
    read = {image.numpy().tobytes() for image in torch.cat([data.train.images, data.test.images])}
    assert read == files


def test_the_second_load_comes_from_the_cache(tree: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(tree, cache)
    assert len(list(cache.iterdir())) == 1
    forbid_decoding(monkeypatch)
    assert same(load(tree, cache), first)
    moved = shutil.copytree(tree, tree.parent / "moved", copy_function=shutil.copy2)
    assert same(load(moved, cache), first)


def test_the_default_cache_is_the_users(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    load_source("folder", SourceRequest(data_dir=tree))
    assert len(list((tmp_path / "xdg" / "atom_plugin" / "decoded").glob("*.h5"))) == 1


def test_a_changed_file_is_decoded_again(tree: Path, cache: Path) -> None:
    first = load(tree, cache)
    picture(tree / "cat" / "0.png", 99)
    changed = load(tree, cache)
    assert changed.fingerprint != first.fingerprint
    os.utime(tree / "cat" / "0.png", ns=(1, 1))
    touched = load(tree, cache)
    assert same(touched, changed)
    assert len(list(cache.iterdir())) == 3


def test_the_fingerprint_tells_content_not_files(tree: Path, cache: Path) -> None:
    """The same pixels in other files on another machine are the same source."""
    elsewhere = tree.parent / "elsewhere"
    for path in tree.rglob("*.png"):
        copy = elsewhere / path.relative_to(tree)
        copy.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(copy, compress_level=0)
    assert load(elsewhere, cache).fingerprint == load(tree, cache).fingerprint
    (elsewhere / "cat").rename(elsewhere / "a cat")
    assert load(elsewhere, cache).fingerprint != load(tree, cache).fingerprint


@pytest.mark.parametrize("damage", ["cut", "flipped bit", "other shape"])
def test_a_damaged_cache_is_rebuilt(
    tree: Path, cache: Path, damage: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(tree, cache)
    (held,) = cache.iterdir()
    if damage == "cut":
        held.write_bytes(held.read_bytes()[:-100])
    else:
        with h5py.File(held, "a") as file:
            if damage == "flipped bit":
                file["images"][3, 1, 2, 2] ^= 4
            else:
                del file["images"]
                file["images"] = np.zeros((3, 3), np.uint8)
    with caplog.at_level(logging.WARNING, "atom_plugin"):
        assert same(load(tree, cache), first)
    assert caplog.text == ""
    forbid_decoding(monkeypatch)
    assert same(load(tree, cache), first)


def test_an_unwritable_cache_does_not_stop_the_run(tree: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.write_text("a file where the folder should be")
    data = load(tree, cache)
    assert len(data.train) == 8
    assert "are not cached" in caplog.text


@pytest.mark.parametrize("kind", ["colour", "grey", "mixed"])
def test_a_large_folder_stays_on_disk_and_is_the_same_source(
    tree: Path, cache: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "grey":
        shutil.rmtree(tree)
    for name in ("cat", "dog") if kind != "colour" else ():
        for number in range(3):
            picture(tree / name / f"grey {number}.png", number, mode="L")
    small = load(tree, cache / "small")
    monkeypatch.setattr(packed, "MAPPED_BYTES", 100)
    large = load(tree, cache / "large")
    assert same(large, small) and large.train.mapped is not None and small.train.mapped is None
    assert same(load(tree, cache / "small"), small), "a small source's cache serves as well"
    forbid_decoding(monkeypatch)
    assert same(load(tree, cache / "large"), small)
    assert [path.suffix for path in (cache / "large").iterdir()] == [".h5"]


def test_a_large_folders_damaged_cache_is_rebuilt(tree: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MAPPED_BYTES", 100)
    first = load(tree, cache)
    (held,) = cache.iterdir()
    held.write_bytes(held.read_bytes()[:-10])
    assert same(load(tree, cache), load(tree, cache)) and len(first.train) == 8


def test_a_large_folder_needs_its_cache(tree: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MAPPED_BYTES", 100)
    cache.write_text("a file where the folder should be")
    with pytest.raises(SourceError, match=r"decoded images cannot be written to .*--cache-dir"):
        load(tree, cache)


def test_two_processes_at_once(tree: Path, cache: Path) -> None:
    program = (
        "import sys; from atom_plugin.datasets import SourceRequest, load_source\n"
        "data = load_source('folder', SourceRequest(data_dir=sys.argv[1], cache_dir=sys.argv[2]))\n"
        "print(data.fingerprint)\n"
    )
    command = [sys.executable, "-c", program, str(tree), str(cache)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=60)[0].strip() for process in running]
    assert answers == [load(tree, cache).fingerprint] * 2
    assert len(list(cache.iterdir())) == 1


def test_reloaded_from_what_a_set_stores(tree: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    data = load(tree, cache, seed=3, test_fraction=0.4, image_size=5)
    assert data.options == {"data_dir": str(tree), "image_size": 5, "seed": 3, "test_fraction": 0.4}
    stored = json.loads(json.dumps(data.options))
    assert same(reload_source("folder", stored), data)
    moved = tree.rename(tree.parent / "moved")
    with pytest.raises(SourceError, match="does not exist"):
        reload_source("folder", stored)
    assert same(reload_source("folder", stored, SourceRequest(data_dir=moved)), data)


def test_sets_made_before_a_class_order_could_be_chosen_keep_theirs(tmp_path: Path, cache: Path) -> None:
    for split in ("train", "test"):
        for label, name in enumerate(("1", "2", "10")):
            picture(tmp_path / "numbers" / split / name / "0.png", label)
    before = load(tmp_path / "numbers", cache)
    natural = load(tmp_path / "numbers", cache, class_order="natural")
    assert before.class_names == ("1", "10", "2") and "class_order" not in before.options
    assert natural.class_names == ("1", "2", "10") and natural.options["class_order"] == "natural"
    for data in (before, natural):
        assert reload_source("folder", json.loads(json.dumps(data.options))).fingerprint == data.fingerprint


def test_scanned_images_of_twelve_bits(tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b"):
        (tmp_path / "scans" / name).mkdir(parents=True)
        for number in range(3):
            levels = np.full((4, 4), 4095 - number, np.uint16)
            Image.fromarray(levels).save(tmp_path / "scans" / name / f"{number}.png")
    for _ in range(2):  # decoded, and from the cache
        caplog.clear()
        assert int(load(tmp_path / "scans", cache).train.images.max()) == 16
        assert "4095 of 65535" in caplog.text and "--bit-depth 12" in caplog.text
    caplog.clear()
    data = load(tmp_path / "scans", cache, bit_depth=12)
    assert int(data.train.images.max()) == 255 and not caplog.text
    assert same(reload_source("folder", json.loads(json.dumps(data.options))), data)


def test_an_image_of_too_many_pixels_is_named_and_may_be_allowed(tree: Path, cache: Path) -> None:
    with pytest.raises(SourceError, match=r"10 image file.*6x6 pixels.*--max-pixels"):
        load(tree, cache, max_pixels=35)
    assert load(tree, cache, max_pixels=36).options["max_pixels"] == 36


def test_unreadable_images_are_left_out_when_asked(
    tree: Path, cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = load(tree, cache / "good")
    (tree / "cat" / "broken.png").write_bytes(b"no image")
    (tree / "dog" / "empty.jpg").touch()
    with pytest.raises(SourceError, match=r"2 image file\(s\) cannot be read: .*broken.png.*--skip-unreadable"):
        load(tree, cache)
    data = load(tree, cache, skip_unreadable=True)
    (warning,) = caplog.messages[-1:]
    assert "2 image file(s) cannot be read and are left out" in warning and "empty.jpg: is empty" in warning
    assert same(data, good)  # as if the broken files were not there, with the same split
    assert data.options["skip_unreadable"] is True
    forbid_decoding(monkeypatch)  # the second time they are known, and said
    assert same(load(tree, cache, skip_unreadable=True), data)
    assert "2 image file(s)" in caplog.messages[-1]
    with pytest.raises(AssertionError, match="decoded"):
        load(tree, cache)  # without the option nothing is left out, from no cache either


def test_mapped_images_without_the_unreadable_ones(
    tree: Path, cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "cat" / "broken.png").write_bytes(b"no image")
    data = load(tree, cache / "memory", skip_unreadable=True)
    monkeypatch.setattr(packed, "MAPPED_BYTES", 0)
    assert same(load(tree, cache, skip_unreadable=True), data)
    monkeypatch.setattr(folder, "decode_into", None)
    assert same(load(tree, cache, skip_unreadable=True), data)


@pytest.mark.parametrize(("split", "kind"), [("", ""), ("train", "training "), ("test", "test ")])
def test_a_class_with_no_readable_image_is_an_error(tree: Path, cache: Path, split: str, kind: str) -> None:
    if split:
        for other in ("train", "test"):
            shutil.copytree(tree / "cat", tree / other / "cat")
            shutil.copytree(tree / "dog", tree / other / "dog")
        shutil.rmtree(tree / "cat")
        shutil.rmtree(tree / "dog")
    for path in (tree / split / "dog").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(SourceError, match=f"class 'dog' has no {kind}image that can be read; repair"):
        load(tree, cache, skip_unreadable=True)


def test_unreadable_images_of_a_ready_split_are_left_out(tree: Path, cache: Path) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            shutil.copytree(tree / name, tree / split / name)
    shutil.rmtree(tree / "cat")
    shutil.rmtree(tree / "dog")
    good = load(tree, cache)
    (tree / "test" / "cat" / "0a.png").write_bytes(b"no image")
    (tree / "train" / "dog" / "0a.png").write_bytes(b"no image")
    assert same(load(tree, cache, skip_unreadable=True), good)


def test_a_set_that_names_followed_links_is_reloaded_with_them(tree: Path, cache: Path, tmp_path: Path) -> None:
    tree.rename(tmp_path / "elsewhere")
    tree.mkdir()
    for name in ("cat", "dog"):
        (tree / name).symlink_to(tmp_path / "elsewhere" / name)
    with pytest.raises(SourceError, match="--follow-links"):
        load(tree, cache)
    data = load(tree, cache, follow_links=True)
    assert same(reload_source("folder", json.loads(json.dumps(data.options))), data)
    with pytest.raises(SourceError, match="follow_links = 1"):
        reload_source("folder", {**data.options, "follow_links": 1})


def test_a_ready_split_stores_no_seed(tree: Path, cache: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "split" / "train")
    shutil.copytree(tree, tmp_path / "split" / "val")
    data = load(tmp_path / "split", cache)
    assert data.options == {"data_dir": str(tmp_path / "split")}
    assert torch.equal(data.train.images, data.test.images) and len(data.train) == 10


def test_relative_folders_are_stored_absolute(tree: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree.parent)
    assert load(Path("tree"), cache).options["data_dir"] == str(tree)


def test_tiny_imagenet(tmp_path: Path, cache: Path) -> None:
    root = tmp_path / "tiny-imagenet-200"
    for label, wnid in enumerate(("n02", "n01")):
        for number in range(3):
            picture(root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", label)
        picture(root / "val" / "images" / f"val_{label}.JPEG", label)
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn02\t0\t0\t1\t1\nval_1.JPEG\tn01\t0\t0\t1\t1\n")
    (root / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tEgyptian cat\n")
    data = load(root, cache)
    assert data.class_names == ("goldfish", "Egyptian cat")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and data.test.labels.tolist() == [0, 1]
    assert torch.equal(data.test.images[0], data.train.images[0])
    assert torch.equal(data.test.images[1], data.train.images[5])


def test_mixed_kinds_and_sizes_with_image_size(tree: Path, cache: Path) -> None:
    picture(tree / "cat" / "grey.png", 1, mode="L", size=(9, 4))
    picture(tree / "cat" / "clear.png", 2, mode="RGBA", size=(5, 11))
    picture(tree / "dog" / "palette.gif", 3, mode="P", size=(12, 12))
    picture(tree / "dog" / "print.jpg", 4, mode="CMYK")
    with pytest.raises(SourceError, match=r"differ in size.*Pass --image-size"):
        load(tree, cache)
    data = load(tree, cache, image_size=4)
    assert data.image_shape == (3, 4, 4) and len(data.train) + len(data.test) == 14


def test_an_all_grey_folder_has_one_channel(tmp_path: Path, cache: Path) -> None:
    for name in "ab":
        for number in range(3):
            picture(tmp_path / "grey" / name / f"{number}.png", number, mode="L")
    assert load(tmp_path / "grey", cache).image_shape == (1, 6, 6)


def test_corrupt_images_are_named_and_nothing_is_cached(tree: Path, cache: Path) -> None:
    bad = tree / "dog" / "2.png"
    bad.write_bytes(bad.read_bytes()[:60])
    (tree / "cat" / "zero.jpg").write_bytes(b"")
    with pytest.raises(SourceError) as caught:
        load(tree, cache)
    assert str(bad) in str(caught.value) and str(tree / "cat" / "zero.jpg") in str(caught.value)
    assert not cache.exists()


def test_the_folder_must_be_named() -> None:
    with pytest.raises(ConfigError, match="--data-dir"):
        load_source("folder", SourceRequest())


def test_names_that_are_not_utf8(tree: Path, cache: Path) -> None:
    try:
        (tree / "cat" / "0.png").rename(tree / "cat" / os.fsdecode(b"caf\xe9.png"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert same(load(tree, cache), load(tree, cache))

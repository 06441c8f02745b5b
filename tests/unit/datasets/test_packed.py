"""The file of decoded images: round trips in memory and mapped, and one line for whatever is wrong with it."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from atom_plugin.datasets import SourceRequest, Split, load_source, packed
from atom_plugin.datasets.common import content_digest
from atom_plugin.datasets.packed import Contents
from atom_plugin.datasets.packed_writer import Packer
from atom_plugin.datasets.pixels import Pixels
from atom_plugin.errors import ConfigError, SourceError

CONTENTS = Contents(
    class_names=("cat", "caf\udce9"), train_labels=[0, 0, 0, 1, 1], test_labels=[0, 1], image_shape=(3, 5, 4)
)


def pixels(contents: Contents = CONTENTS) -> Pixels:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (contents.count, *contents.image_shape), dtype=np.uint8)


def pack(path: Path, contents: Contents = CONTENTS) -> Path:
    with Packer(path.with_suffix(".unfinished"), contents) as packer:
        for image in pixels(contents):
            packer.put(image[None])
        packer.finish(path)
    return path


@pytest.mark.parametrize("mapped", [False, True])
def test_images_come_back_as_they_went_in(tmp_path: Path, mapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if mapped:
        monkeypatch.setattr(packed, "MAPPED_BYTES", 0)
    path = pack(tmp_path / "images.h5")
    found = packed.read(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["images.h5"]
    assert (found.train.mapped is not None) is mapped
    together = torch.cat([found.train.images, found.test.images])
    assert torch.equal(together, torch.from_numpy(pixels()))
    assert found.train.labels.tolist() == [0, 0, 0, 1, 1] and found.test.labels.tolist() == [0, 1]
    assert found.class_names == CONTENTS.class_names
    plain = [Split(images=split.images.clone(), labels=split.labels) for split in (found.train, found.test)]
    assert found.digest == content_digest(plain[0], plain[1], CONTENTS.class_names)


def test_rows_and_parts_are_those_of_the_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MAPPED_BYTES", 0)
    for split in (
        packed.read(pack(tmp_path / "images.h5")).train,
        Split(images=torch.arange(120).view(5, 2, 3, 4).byte(), labels=torch.arange(5)),
    ):
        for rows in ([4, 0, 0, 3], [2], [], list(range(5)) * 20):
            assert torch.equal(split.rows(torch.tensor(rows, dtype=torch.int64)), split.images[rows])
        out = torch.empty(2, *split.images.shape[1:], dtype=torch.uint8)
        assert split.rows(torch.tensor([1, 4]), out=out) is out and torch.equal(out, split.images[[1, 4]])
        assert torch.equal(torch.cat(list(split.parts(2))), split.images)


def test_pixels_lie_where_the_documentation_says(tmp_path: Path) -> None:
    contents = replace(CONTENTS, image_shape=(3, 20, 20))
    path, expected = pack(tmp_path / "images.h5", contents), pixels(contents)
    with h5py.File(path) as file:
        assert np.array_equal(file["images"], expected)
        offset = file["images"].id.get_offset()
    assert offset % 4096 == 0
    assert path.read_bytes()[offset : offset + expected.size] == expected.tobytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", "there is no"),
        ("empty", "damaged or not a file of decoded images"),
        ("text", "damaged or not a file of decoded images"),
        ("cut", "damaged or not a file|truncated"),
        ("other", "its format is None"),
        ("newer", "format version 2, this release reads 1; update"),
        ("no labels", "damaged or not a file"),
        ("fewer labels", "7 images and labels"),
        ("chunked", "not contiguous uint8"),
        ("unfinished", "is unfinished"),
    ],
)
@pytest.mark.parametrize("mapped", [False, True])
def test_damage_is_one_line(
    tmp_path: Path, damage: str, message: str, mapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mapped:
        monkeypatch.setattr(packed, "MAPPED_BYTES", 0)
    path = pack(tmp_path / "images.h5")
    if damage == "missing":
        path.unlink()
    elif damage in {"empty", "text"}:
        path.write_text("" if damage == "empty" else "no HDF5 at all")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    else:
        with h5py.File(path, "a") as file:
            if damage == "other":
                del file.attrs["format"]
            elif damage == "newer":
                file.attrs["version"] = 2
            elif damage == "no labels":
                del file["labels"]
            elif damage == "fewer labels":
                del file["labels/test"]
                file["labels/test"] = np.zeros(1, np.int64)
            elif damage == "chunked":
                del file["images"]
                file.create_dataset("images", data=pixels(), chunks=(1, 3, 5, 4))
            else:
                del file.attrs["digest"]
    with pytest.raises(SourceError, match=message) as caught:
        packed.read(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_flipped_bit_is_found_in_memory(tmp_path: Path) -> None:
    path = pack(tmp_path / "images.h5")
    with h5py.File(path, "a") as file:
        file["images"][3, 1, 2, 2] ^= 4
    with pytest.raises(SourceError, match="does not match its digest; remove it and make it again"):
        packed.read(path)


def test_a_file_cut_short_in_use_is_an_error_and_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MAPPED_BYTES", 0)
    path = pack(tmp_path / "images.h5")
    train = packed.read(path).train
    with path.open("r+b") as file:
        file.truncate(100)
    with pytest.raises(SourceError, match="became shorter while it was in use"):
        train.rows(torch.tensor([4]))


def test_the_source_reads_a_folder_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = Contents(class_names=("a", "b"), train_labels=[0, 1, 1], test_labels=[0], image_shape=(1, 4, 4))
    pack(tmp_path / "images.h5", contents)
    data = load_source("packed", SourceRequest(data_dir=tmp_path))
    assert data.name == "packed" and data.options == {"data_dir": str(tmp_path)} and len(data.train) == 3
    monkeypatch.setattr(packed, "MAPPED_BYTES", 0)
    assert load_source("packed", SourceRequest(data_dir=tmp_path, image_size=4)).fingerprint == data.fingerprint
    with pytest.raises(SourceError, match="images of 4x4, not of 8x8"):
        load_source("packed", SourceRequest(data_dir=tmp_path, image_size=8))
    with pytest.raises(SourceError, match=r"there is no .*nowhere.images\.h5"):
        load_source("packed", SourceRequest(data_dir=tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="--data-dir"):
        load_source("packed", SourceRequest())


def test_many_readers_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MAPPED_BYTES", 0)
    path = pack(tmp_path / "images.h5")
    expected, wrong = torch.from_numpy(pixels()), []

    def work(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        train = packed.read(path).train
        for _ in range(10):
            rows = torch.randint(5, (7,), generator=generator)
            if not torch.equal(train.rows(rows), expected[rows]):
                wrong.append(rows)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    program = (
        "import sys, pathlib; from atom_plugin.datasets import packed; packed.MAPPED_BYTES = 0\n"
        "print(int(packed.read(pathlib.Path(sys.argv[1])).train.images.long().sum()))"
    )
    other = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    for thread in threads:
        thread.join()
    assert wrong == [] and int(other.stdout) == int(expected[:5].long().sum())

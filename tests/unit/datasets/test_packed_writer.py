"""Packed files while they are written: continued, refused, narrowed, and alone."""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from atom_plugin.datasets import packed, packed_writer
from atom_plugin.datasets.packed import Contents
from atom_plugin.datasets.packed_writer import Packer, alone
from atom_plugin.errors import SourceError

CONTENTS = Contents(class_names=("a", "b"), train_labels=[0, 0, 1, 1], test_labels=[0, 1], image_shape=(3, 4, 4))
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 4), dtype=np.uint8)


def test_stopped_anywhere_it_goes_on_and_gives_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_writer, "_MARKED", 2 * PIXELS[0].size)
    unfinished, path = tmp_path / "unfinished", tmp_path / "whole.h5"
    starts = []
    for stop in (1, 3, 4, 6):
        # Left without `finish`, as a kill leaves it.
        with Packer(unfinished, CONTENTS) as packer:
            starts.append(packer.done)
            for image in PIXELS[packer.done : stop]:
                packer.put(image[None])
    assert starts == [0, 0, 2, 4], "what was written is trusted up to the last mark"
    with Packer(unfinished, CONTENTS) as packer:
        packer.put(PIXELS[packer.done :])
        packer.finish(path)
    with Packer(unfinished, CONTENTS) as packer:
        packer.put(PIXELS)
        packer.finish(tmp_path / "again.h5")
    assert packed.read(path).digest == packed.read(tmp_path / "again.h5").digest
    assert torch.equal(packed.read(path).train.images, torch.from_numpy(PIXELS[:4]))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["again.h5", "whole.h5"]


@pytest.mark.parametrize(
    "other",
    [
        replace(CONTENTS, train_labels=[0, 1, 1, 1]),
        replace(CONTENTS, test_labels=[1, 1]),
        replace(CONTENTS, class_names=("a", "c")),
        replace(CONTENTS, image_shape=(1, 4, 4)),
    ],
)
def test_an_unfinished_file_of_something_else_is_begun_anew(
    tmp_path: Path, other: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_writer, "_MARKED", 1)
    with Packer(tmp_path / "unfinished", other) as packer:
        packer.put(PIXELS[:2, : other.image_shape[0]])
    with Packer(tmp_path / "unfinished", CONTENTS) as packer:
        assert packer.done == 0
    (tmp_path / "unfinished").write_text("no HDF5")
    with Packer(tmp_path / "unfinished", CONTENTS) as packer:
        assert packer.done == 0


def test_too_few_images_make_no_file(tmp_path: Path) -> None:
    with Packer(tmp_path / "unfinished", CONTENTS) as packer:
        packer.put(PIXELS[:5])
        with pytest.raises(SourceError, match="has 5 of 6 images"):
            packer.finish(tmp_path / "whole.h5")
    assert not (tmp_path / "whole.h5").exists()


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    with Packer(tmp_path / "unfinished", CONTENTS) as packer:
        with pytest.raises(SourceError, match=r"image of 2x4 with 3 channel\(s\).*4x4 with 3.*--image-size"):
            packer.put(PIXELS[:1, :, :, :2])
        with pytest.raises(SourceError, match=r"with 2 channel\(s\)"):
            packer.put(PIXELS[:1, :2])


def test_grey_among_colour_becomes_three_channels(tmp_path: Path) -> None:
    with Packer(tmp_path / "unfinished", CONTENTS) as packer:
        packer.put(PIXELS[:2, :1])
        packer.put(PIXELS[2:])
        packer.finish(tmp_path / "whole.h5")
    images = packed.read(tmp_path / "whole.h5").train.images
    assert torch.equal(images[:2], torch.from_numpy(PIXELS[:2, :1]).expand(2, 3, 4, 4))
    assert torch.equal(images[2:], torch.from_numpy(PIXELS[2:4]))


def test_grey_alone_becomes_one_channel_also_when_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_writer, "_MARKED", 1)
    with Packer(tmp_path / "unfinished", CONTENTS) as packer:
        packer.put(PIXELS[:2, :1])
    with Packer(tmp_path / "unfinished", CONTENTS) as packer:
        packer.put(PIXELS[packer.done :, :1])
        packer.finish(tmp_path / "whole.h5")
    found = packed.read(tmp_path / "whole.h5")
    assert torch.equal(torch.cat([found.train.images, found.test.images]), torch.from_numpy(PIXELS[:, :1]))
    assert [entry.name for entry in tmp_path.iterdir()] == ["whole.h5"]


def test_too_little_space_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(
        SourceError, match=r"no space for 288 bytes .*; free some, or choose another disk \(--cache-dir"
    ):
        Packer(tmp_path / "unfinished", CONTENTS)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_is_one_line(tmp_path: Path) -> None:
    with Packer(tmp_path / "unfinished", CONTENTS) as packer:
        packer._file.close()
        packer._file = (tmp_path / "unfinished").open("rb", buffering=0)
        with pytest.raises(SourceError, match="decoded images cannot be written to") as caught:
            packer.put(PIXELS)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    with pytest.raises(SourceError, match="decoded images cannot be written to"):
        Packer(tmp_path / "taken" / "unfinished", CONTENTS)
    with pytest.raises(SourceError, match="--cache-dir"), alone(tmp_path / "taken" / "unfinished"):
        pass


def test_one_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with alone(tmp_path / "unfinished"):
                inside += 1
                most = max(most, inside)
                threading.Event().wait(0.0005)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert list(tmp_path.iterdir()) == [], "what nothing came of is removed"

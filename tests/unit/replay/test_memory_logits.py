"""The logits that a memory keeps: whose they are, what they take of the budget, and that they follow their images."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from synthetic_sets import assert_equal_sets, make_set

from atom_plugin import store
from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.replay.memory import Budget, ReplayMemory
from atom_plugin.store.files import write_fields
from atom_plugin.store.synthetic_set import SyntheticSet, fields_of

NAMES = tuple(f"class {label}" for label in range(6))
NUMBERS = 6  # values of an image's logits, one per class name
IMAGE, LOGITS = 16, 2 * NUMBERS  # bytes: uint8, 1x4x4; float16


def numbered(*classes: int, ipc: int = 4, start: int = 0, factor: int = 1) -> SyntheticSet:
    """Images of pixels, one level each: ``40 * label + start + index``."""
    labels = torch.tensor(classes).repeat_interleave(ipc)
    made = make_set(class_names=NAMES, labels=labels, factor=factor, storage="uint8")
    levels = 40 * labels + start + torch.arange(ipc).repeat(len(classes))
    return replace(made, images=levels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous())


def levels(memory: ReplayMemory) -> torch.Tensor:
    """The level of each decoded image, as a number of its own."""
    return memory.images.images[:, 0, 0, 0].repeat_interleave(memory.images.factor**2).float()


def keeping(*sets: SyntheticSet, budget: Budget | None = None) -> ReplayMemory:
    memory = ReplayMemory(budget or Budget(max_images=24), keep_logits=True)
    for each in sets:
        memory.add(each)
    return memory


def tell(memory: ReplayMemory, heads: int = NUMBERS, shift: float = 0.0) -> None:
    """Logits that name their image and class: level + class / 8."""
    memory.store_logits(levels(memory)[:, None] + torch.arange(heads) / 8 + shift)


def known(memory: ReplayMemory) -> list[list[int]]:
    """The classes whose logits are known, for each image."""
    assert memory.logits is not None
    return [row.isfinite().nonzero().flatten().tolist() for row in memory.logits]


def assert_own(memory: ReplayMemory) -> None:
    """Every known logit is that of its image."""
    assert memory.logits is not None
    expected = levels(memory)[:, None] + torch.arange(NUMBERS) / 8
    found = memory.logits
    assert torch.equal(found[found.isfinite()], expected[found.isfinite()])


@pytest.mark.parametrize("factor", [1, 2])
def test_an_image_keeps_the_logits_of_the_experience_that_brought_it(factor):
    memory = keeping(numbered(1, 3, factor=factor))
    tell(memory, heads=4)
    assert known(memory) == [[0, 1, 2, 3]] * 8 * factor**2
    memory.add(numbered(0, factor=factor))
    assert known(memory) == [[]] * 4 * factor**2 + [[0, 1, 2, 3]] * 8 * factor**2
    tell(memory)
    assert known(memory) == [[*range(6)]] * 4 * factor**2 + [[0, 1, 2, 3]] * 8 * factor**2
    assert_own(memory)
    before = memory.logits
    tell(memory, shift=1.0)  # all have some: nothing changes
    assert torch.equal(memory.logits.nan_to_num(), before.nan_to_num())


def test_they_follow_their_images_where_a_memory_shrinks_and_classes_come_again():
    memory = keeping(numbered(4, 2))
    tell(memory, heads=5)
    memory.add(numbered(2, start=8))  # in turns with the old images of the class, whose logits stay
    held = dict(zip(levels(memory).int().tolist(), known(memory), strict=True))
    some = [*range(5)]
    assert held == {80 + i: some for i in range(4)} | {88 + i: [] for i in range(4)} | {160 + i: some for i in range(4)}
    assert_own(memory)
    tell(memory)
    for budget in (Budget(max_images=7), Budget(max_images=3)):
        memory.resize(budget)
        assert len(known(memory)) == budget.max_images
        assert_own(memory)
        assert all(known(memory))
    memory.resize(Budget(max_images=6))
    memory.add(numbered(0, 1, 5))
    assert sorted(memory.images.labels.tolist()) == [0, 0, 1, 2, 4, 5]
    assert_own(memory)


def test_of_tiles_each_has_its_own():
    memory = keeping(numbered(0, ipc=2, factor=2))
    outputs = torch.arange(8.0)[:, None].expand(8, 6)
    memory.store_logits(outputs)
    assert memory.logits is not None
    assert memory.logits[:, 0].tolist() == list(range(8))
    memory.resize(Budget(ipc=1))
    assert memory.logits[:, 0].tolist() == [0, 1, 2, 3]


def test_classes_of_another_task_are_left_out():
    memory = ReplayMemory(Budget(ipc=1), keep_logits=True)
    memory.add(numbered(3, 1), task=0)
    tell(memory, heads=5)
    memory.add(numbered(0, 2), task=1)
    tell(memory)
    assert known(memory) == [[0, 2, 4, 5], [0, 1, 2, 3, 4], [0, 2, 4, 5], [0, 1, 2, 3, 4]]


def test_heads_and_class_names_may_grow():
    memory = keeping(replace(numbered(1, 0), class_names=NAMES[:2]))
    tell(memory, heads=2)
    memory.add(numbered(5))
    assert memory.logits is not None
    assert memory.logits.shape == (12, 6)
    with pytest.raises(ConfigError, match=r"\(12, 5\), expected 12 images and 6 heads"):
        tell(memory, heads=5)
    tell(memory, heads=9)
    assert known(memory) == [[0, 1]] * 8 + [[*range(6)]] * 4
    assert_own(memory)


@pytest.mark.parametrize("value", [1e6, float("inf"), float("nan")])
def test_what_float16_cannot_hold_is_not_known(value):
    memory = keeping(numbered(0, 1, ipc=1))
    memory.store_logits(torch.tensor([[value, 1.0], [2.0, value]]))
    assert known(memory) == [[1], [0]]


@pytest.mark.parametrize("factor", [1, 2])
def test_their_bytes_count_from_the_start(factor):
    each = IMAGE + LOGITS * factor**2
    memory = keeping(numbered(0, 1, factor=factor), budget=Budget(max_bytes=5 * each))
    assert memory.bytes == len(memory) * each == 5 * each
    assert memory.room_for([2], (1, 4, 4), "uint8", logits=(factor**2, 6)) == {2: 1}
    tell(memory)
    assert memory.bytes == 5 * each
    plain = ReplayMemory(memory.budget)
    plain.add(numbered(0, 1, factor=factor))
    assert (len(plain), plain.bytes, plain.logits) == (8, 8 * IMAGE, None)
    assert plain.room_for([2], (1, 4, 4), "uint8", logits=(factor**2, 6)) == {2: 5 * each // IMAGE // 3}


@pytest.mark.parametrize("told", [True, False])
def test_the_file_has_them_and_is_an_ordinary_set(tmp_path, told):
    memory = keeping(numbered(4, 2, factor=2))
    if told:
        tell(memory)
    memory.save(tmp_path / "memory.h5")
    again = ReplayMemory.load(tmp_path / "memory.h5")
    assert again.keep_logits
    assert again.logits is not None
    assert again.logits.numpy().tobytes() == memory.logits.numpy().tobytes()
    again.save(tmp_path / "again.h5")
    assert (tmp_path / "again.h5").read_bytes() == (tmp_path / "memory.h5").read_bytes()
    assert_equal_sets(store.read(tmp_path / "memory.h5"), memory.images)
    assert store.verify(tmp_path / "memory.h5").version == 2
    assert not ReplayMemory.load(_plain(tmp_path)).keep_logits


def _plain(folder):
    memory = ReplayMemory(Budget(ipc=1))
    memory.add(numbered(0))
    memory.save(folder / "plain.h5")
    return folder / "plain.h5"


def test_logits_that_do_not_fit_their_images(tmp_path):
    memory = keeping(numbered(4, 2, factor=2))
    write_fields(fields_of(memory.images), tmp_path / "tiles.h5", logits=torch.zeros(8, 3, 6).half())
    with pytest.raises(StoreError, match=r"logits of 3 tiles, images of 4"):
        ReplayMemory.load(tmp_path / "tiles.h5")
    with pytest.raises(StoreError, match=r"learner_logits: found shape \(7, 4, 6\), expected \(N, T, K\)"):
        write_fields(fields_of(memory.images), tmp_path / "few.h5", logits=torch.zeros(7, 4, 6).half())
    memory.save(tmp_path / "memory.h5")
    with h5py.File(tmp_path / "memory.h5", "a") as file:
        file["learner_logits"][0, 0, 0] = np.float16(1)
    with pytest.raises(StoreError, match="checksum"):
        ReplayMemory.load(tmp_path / "memory.h5")


def test_what_is_refused_changes_nothing():
    memory = keeping(numbered(0, 1))
    tell(memory)
    before = memory.logits
    for shape in [(7, 6), (8, 1), (8,), (8, 6, 1)]:
        with pytest.raises(ConfigError, match=rf"{shape}".replace("(", r"\(").replace(")", r"\)")):
            memory.store_logits(torch.zeros(shape))
    assert torch.equal(memory.logits.nan_to_num(), before.nan_to_num())
    plain = ReplayMemory(Budget(ipc=1))
    plain.add(numbered(0))
    with pytest.raises(ConfigError, match="keep_logits=True"):
        plain.store_logits(torch.zeros(1, 6))

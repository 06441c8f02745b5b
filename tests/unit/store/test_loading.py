"""One line from a file to batches, and to the transform of test images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from synthetic_sets import assert_equal_sets, make_set
from torch.utils.data import DataLoader

import atom_plugin
from atom_plugin.datasets.pixels import MAX_PIXELS, Decoding
from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.store.batches import own_strategy
from atom_plugin.store.loading import decoding_of
from atom_plugin.transforms.augmentation import DEFAULT_STRATEGY


def in_order(loader: DataLoader[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


@pytest.mark.parametrize("looks", [{}, {"zca": True}, {"factor": 2}, {"factor": 2, "storage": "uint8"}])
def test_batches_are_the_decoded_images(tmp_path: Path, looks: dict[str, object]) -> None:
    made = make_set(classes=3, ipc=2, shape=(3, 8, 8), **looks)  # type: ignore[arg-type]
    made.save(tmp_path / "set.h5")
    held = atom_plugin.load(tmp_path / "set.h5")
    assert_equal_sets(held, made)
    loader = held.dataloader(batch_size=4, shuffle=False)
    images, labels = in_order(loader)
    assert torch.equal(images, made.decoded().images) and torch.equal(labels, made.decoded().labels)
    assert next(len(batch) for batch, _ in loader) == 4


def test_passes_differ_and_a_seed_repeats_them() -> None:
    held = make_set(classes=3, ipc=4, shape=(3, 8, 8), config={"augmentation": "flip_crop"})
    loader, again = (held.dataloader(5, augment=True, seed=3) for _ in range(2))
    first, second = in_order(loader), in_order(loader)
    assert not torch.equal(first[0], second[0]) and not torch.equal(first[1], second[1])
    assert all(torch.equal(one, other) for one, other in zip(first, in_order(again), strict=True))
    assert all(torch.equal(one, other) for one, other in zip(second, in_order(again), strict=True))
    assert sorted(first[1].tolist()) == held.labels.tolist()


def test_augmentation_is_the_sets_own() -> None:
    held = make_set(classes=2, ipc=8, shape=(3, 8, 8), config={"augmentation": "flip"})
    images, _ = in_order(held.dataloader(shuffle=False, augment=True))
    same, turned = (
        torch.tensor([torch.allclose(a, b, atol=1e-5) for a, b in zip(images, each, strict=True)])
        for each in (held.images, held.images.flip(-1))
    )
    assert bool((same | turned).all()) and bool(same.any()) and bool(turned.any())
    none = make_set(shape=(3, 8, 8), config={"augmentation": "none"})
    assert torch.equal(in_order(none.dataloader(shuffle=False, augment=True))[0], none.images)


def test_a_set_that_names_no_augmentation_gets_all_of_them() -> None:
    held = make_set(config={"augmentation": "flip"})
    assert own_strategy(make_set().provenance) == DEFAULT_STRATEGY
    both = atom_plugin.store.concatenate([held, replace(held, images=held.images + 1)])  # type: ignore[attr-defined]
    assert own_strategy(both.provenance) == "flip"


def test_a_batch_of_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size must be at least 1, not 0"):
        make_set().dataloader(0)


def test_the_transform_is_that_of_the_set(tmp_path: Path) -> None:
    held = make_set(shape=(3, 8, 8), zca=True, source={"name": "folder", "options": {"bit_depth": 12}})
    held.save(tmp_path / "set.h5")
    pixels = torch.arange(192, dtype=torch.uint8).view(3, 8, 8)
    for of in (held, tmp_path / "set.h5", str(tmp_path / "set.h5")):
        preprocess = atom_plugin.preprocess_for(of)
        assert torch.equal(preprocess(pixels), held.preprocessing.forward(pixels))
        assert preprocess.decoding == Decoding(bit_depth=12)


@pytest.mark.parametrize("call", [atom_plugin.load, atom_plugin.preprocess_for])
def test_no_set_is_an_error(tmp_path: Path, call: object) -> None:
    with pytest.raises(StoreError, match=r"nothing\.h5"):
        call(tmp_path / "nothing.h5")  # type: ignore[operator]


@pytest.mark.parametrize("value", ["twelve", 3, 99, True, None, 12.0])
def test_options_that_somebody_else_wrote_are_taken_where_they_are_sound(value: object) -> None:
    found = decoding_of({"options": {"bit_depth": value, "max_pixels": value}})
    assert found.bit_depth == 16 and found.max_pixels in (MAX_PIXELS, value)


def test_what_is_no_path_and_no_bool_is_refused():
    with pytest.raises(ConfigError, match="path"):
        atom_plugin.load(3)
    with pytest.raises(ConfigError, match="augment"):
        make_set().dataloader(augment="color")

"""The part of the training images that is held out: which images, and that nothing of a set comes from them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small import coloured_source, small_config, small_selection

from atom_plugin.datasets import SourceData, SourceRequest, Split, load_source, packed, reload_source
from atom_plugin.datasets.common import content_digest
from atom_plugin.datasets.packed import Contents
from atom_plugin.datasets.packed_writer import Packer
from atom_plugin.datasets.validation import hold_out
from atom_plugin.distillation.loop import distill
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.errors import ConfigError, SourceError
from atom_plugin.evaluation import network_of
from atom_plugin.evaluation.training import TrainConfig, train_on_real
from atom_plugin.transforms.preprocessing import Preprocessing


def numbered(counts: list[int]) -> SourceData:
    """A source whose image number n has the value n everywhere; classes of so many images, dealt in turn."""
    labels = torch.tensor([label for row in range(max(counts)) for label, count in enumerate(counts) if row < count])
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    train = Split(images=images, labels=labels)
    names = tuple(f"class {label}" for label in range(len(counts)))
    digest = content_digest(train, train, names)
    return SourceData(name="mine", train=train, test=train, class_names=names, fingerprint=digest, options={})


def part(data: SourceData) -> Split:
    assert data.validation is not None
    return data.validation


def rows(split: Split) -> list[int]:
    return split.images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("counts", "amount", "expected"),
    [
        ([10, 10, 10], 0.2, [2, 2, 2]),
        ([10, 10, 10], 6, [2, 2, 2]),
        ([10, 10, 10], 7.0, [3, 2, 2]),
        ([40, 20, 4], 0.25, [10, 5, 1]),
        ([100, 2, 2], 0.05, [3, 1, 1]),
        ([10, 10], 18, [9, 9]),
        ([2, 2], 0.5, [1, 1]),
        ([5, 0, 5], 2, [1, 0, 1]),
    ],
)
def test_each_class_gives_in_proportion_and_keeps_some(counts: list[int], amount: float, expected: list[int]) -> None:
    whole = numbered(counts)
    held = hold_out(whole, amount)
    found = Counter(part(held).labels.tolist())
    assert [found[label] for label in range(len(counts))] == expected
    assert sorted(rows(held.train) + rows(part(held))) == rows(whole.train)
    for split in (held.train, part(held)):
        assert split.labels.tolist() == whole.train.labels[rows(split)].tolist()
    assert held.test is whole.test


def test_the_part_is_a_matter_of_the_seed_and_the_same_everywhere() -> None:
    whole = numbered([20, 30])
    assert rows(part(hold_out(whole, 5))) == [5, 28, 30, 31, 46]
    assert rows(part(hold_out(whole, 5, seed=1))) == [4, 17, 25, 38, 47]
    assert hold_out(whole, 0.1).fingerprint == hold_out(whole, 5).fingerprint != whole.fingerprint
    assert len({hold_out(whole, 5, seed=seed).fingerprint for seed in range(5)}) == 5


@pytest.mark.parametrize(
    ("counts", "amount", "kind", "words"),
    [
        ([10, 10, 10], 2, ConfigError, "validation part of 2 images does not suit 3 classes with 30 training images"),
        ([10, 10, 10], 28, ConfigError, "take 3 to 27"),
        ([10, 10], 0.01, ConfigError, "validation part of 0 images"),
        ([10, 1], 0.5, SourceError, "class 'class 1' has one training image"),
    ],
)
def test_a_part_that_leaves_a_class_without_images_is_refused(
    counts: list[int], amount: float, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        hold_out(numbered(counts), amount)


@pytest.mark.parametrize("amount", [0, -1, 1.5, float("nan"), float("inf")])
def test_an_amount_that_is_no_share_and_no_number_is_refused(amount: float) -> None:
    with pytest.raises(
        ConfigError, match=r"validation must be (a fraction between 0 and 1 or a number of images|finite)"
    ):
        SourceRequest(validation=amount)


def a_packed_folder(folder: Path) -> SourceRequest:
    contents = Contents(
        class_names=("a", "b"), train_labels=[0] * 12 + [1] * 12, test_labels=[0, 1], image_shape=(3, 8, 8)
    )
    pixels = np.random.default_rng(0).integers(0, 256, (contents.count, 3, 8, 8), dtype=np.uint8)
    with Packer(folder / "unfinished", contents) as packer:
        for image in pixels:
            packer.put(image[None])
        packer.finish(folder / "images.h5")
    return SourceRequest(data_dir=folder)


@pytest.mark.parametrize("name", ["digits", "packed"])
def test_every_source_loads_without_its_validation_images_and_again_by_its_options(name: str, tmp_path: Path) -> None:
    request = a_packed_folder(tmp_path) if name == "packed" else SourceRequest()
    whole = load_source(name, request)
    data = load_source(name, replace(request, validation=0.25, seed=7))
    assert len(part(data)) == round(len(whole.train) / 4) and len(data.train) == len(whole.train) - len(part(data))
    assert (data.options["validation"], data.options["seed"]) == (0.25, 7)
    again = reload_source(name, data.options)
    assert again.fingerprint == data.fingerprint
    assert torch.equal(part(again).images, part(data).images) and torch.equal(again.train.images, data.train.images)
    with pytest.raises(ConfigError, match=r"--split-seed .* has no effect"):
        load_source(name, replace(request, seed=7))


def test_images_on_disk_are_read_as_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = replace(a_packed_folder(tmp_path), validation=6)
    loaded = load_source("packed", request)
    monkeypatch.setattr(packed, "MAPPED_BYTES", 0)
    mapped = load_source("packed", request)
    assert mapped.fingerprint == loaded.fingerprint
    for ours, plain in ((mapped.train, loaded.train), (part(mapped), part(loaded))):
        assert ours.mapped is not None and plain.mapped is None
        assert torch.equal(ours.images, plain.images) and torch.equal(ours.labels, plain.labels)
        assert (len(ours), ours.image_shape, ours.pixel_bytes) == (len(plain), plain.image_shape, plain.pixel_bytes)
        assert torch.equal(torch.cat(list(ours.parts(4))), plain.images)
        out = torch.empty(2, 3, 8, 8, dtype=torch.uint8)
        assert ours.rows(torch.tensor([4, 1]), out=out) is out and torch.equal(out, plain.images[[4, 1]])
    for config in (small_config(zca_eps=0.1), small_config(image_init="herding")):
        assert torch.equal(distill(config, mapped).images, distill(config, loaded).images)
    chosen = selected_set(small_selection(method="forgetting", forgetting_epochs=2), loaded)
    weights = [
        train_on_real(data.train, chosen, network_of(chosen), TrainConfig(epochs=2), seed=0).classifier.weight
        for data in (mapped, loaded)
    ]
    assert torch.equal(weights[0], weights[1])


@pytest.mark.parametrize("method", ["random", "herding", "k-center", "forgetting"])
def test_nothing_of_a_set_comes_from_the_validation_images(method: str) -> None:
    whole = coloured_source()
    kept = hold_out(whole, 0.25)
    held_out = (whole.train.images[:, None] == part(kept).images[None]).all(dim=(2, 3, 4)).any(1)
    assert int(held_out.sum()) == len(part(kept))
    noise = whole.train.images.clone()
    noise[held_out] = 255
    other = hold_out(replace(whole, train=Split(images=noise, labels=whole.train.labels)), 0.25)
    epochs = {"forgetting_epochs": 2} if method == "forgetting" else {}
    for config, make in (
        (small_config(image_init=method, zca_eps=0.1, **epochs), distill),
        (small_selection(method=method, zca_eps=0.1, **epochs), selected_set),
    ):
        one, two = make(config, kept, device="cpu"), make(config, other, device="cpu")
        assert torch.equal(one.images, two.images)
        assert one.preprocessing.matches(two.preprocessing)
    alone = Preprocessing.fit(whole.train.images[~held_out])
    assert torch.equal(small_config().fit_preprocessing(kept).mean, alone.mean)


def test_the_set_remembers_what_was_held_out() -> None:
    data = load_source("digits", SourceRequest(validation=100, seed=3))
    made = selected_set(small_selection(ipc=1), data)
    assert made.provenance.source["options"] == {"validation": 100, "seed": 3}
    assert made.provenance.source["fingerprint"] == data.fingerprint

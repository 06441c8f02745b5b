"""Which images an audit asks about."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from audits import distilled, selected, source
from small import coloured_source
from synthetic_sets import make_set

from atom_plugin.audit.members import among, begun_from, check_made_of, examine, seen_images
from atom_plugin.datasets import Split
from atom_plugin.errors import ConfigError, SourceError
from atom_plugin.store.concatenation import concatenate


@pytest.mark.parametrize("halve", [True, False])
def test_members_and_non_members_have_as_many_of_each_class_and_no_image_twice(halve: bool) -> None:
    found = examine(source(), most=30, halve=halve, seed=1)
    assert found.on == "validation"
    counts = [
        labels.bincount().tolist()
        for labels in (source().train.labels[found.members], found.outside.labels[found.others])
    ]
    assert counts == [[10, 10, 10]] * 2
    assert len(found.reference) == (36 if halve else 0)
    assert not set(found.others.tolist()) & set(found.reference.tolist())
    seen = seen_images(source().train)
    assert among(source().train.rows(found.members), seen).all()
    assert not among(found.outside.rows(found.others), seen).any()
    if halve:
        assert torch.equal(found.shadow_source.train.images, found.outside.rows(found.reference))


def test_without_a_validation_part_the_test_images_are_the_non_members() -> None:
    data = coloured_source()
    found = examine(data, most=1000, halve=True, seed=0)
    assert found.on == "test" and found.outside is data.test
    assert len(found.members) == len(found.others) == 9  # a half of the six test images of each class


def test_the_draw_is_the_seeds() -> None:
    once, again, other = (examine(source(), most=12, halve=True, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(once.members, again.members) and torch.equal(once.reference, again.reference)
    assert not torch.equal(once.members, other.members)


def test_a_class_with_too_few_images_outside_is_named() -> None:
    data = coloured_source()
    lonely = torch.tensor([0, 6, 7, 8, 12, 13])
    few = replace(data, test=Split(images=data.test.images[lonely], labels=data.test.labels[lonely]))
    assert len(examine(few, most=100, halve=True, seed=0).reference) == 2  # of one image none is taken
    without = replace(data, test=Split(images=data.test.images[6:], labels=data.test.labels[6:]))
    with pytest.raises(SourceError, match=r"'class 0'.*--validation"):
        examine(without, most=100, halve=True, seed=0)


@pytest.mark.parametrize("method", ["random", "herding"])
@pytest.mark.parametrize("storage", ["float32", "float16", "uint8"])
def test_a_selection_is_found_among_the_images_that_it_was_made_from(method: str, storage: str) -> None:
    held = selected(method, storage=storage)
    rows = begun_from(held, source())
    assert rows is not None
    assert source().train.labels[rows].tolist() == held.labels.tolist()
    pixels = held.true_colour().mul(255).round()
    assert torch.equal(source().train.rows(rows).float(), pixels)


def test_a_run_from_random_images_is_followed_back_to_them() -> None:
    rows = begun_from(distilled("random"), source())
    assert rows is not None
    assert torch.equal(rows, begun_from(selected("random"), source()))  # of the same seed


def test_a_packed_selection_at_random_is_followed_back_to_its_tiles() -> None:
    rows = begun_from(selected("random", factor=2), source())
    assert rows is not None and len(rows.unique()) == 3 * 4 * 4


def test_what_began_from_no_image_or_an_unknown_one_is_not_followed_back() -> None:
    merged = concatenate([distilled("random"), distilled("random", iterations=7)])
    for each in (
        distilled("noise"),
        distilled("herding"),
        merged,
        make_set(shape=(3, 8, 8)),
        distilled("random").first(2),
    ):
        assert begun_from(each, source()) is None


def test_a_set_of_other_images_or_without_some_classes_is_refused() -> None:
    check_made_of("a.h5", selected(), source())
    with pytest.raises(ConfigError, match=r"a\.h5.*other images.*0123456789ab"):
        check_made_of("a.h5", selected(), coloured_source())
    with pytest.raises(ConfigError, match=r"a\.h5.*class 2"):
        check_made_of("a.h5", selected().subset([0, 1]), source())

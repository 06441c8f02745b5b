"""Which images are held out, and which a part holds."""

from __future__ import annotations

import pytest
import torch
from small import coloured_source

from atom_plugin.datasets import Split
from atom_plugin.errors import SourceError
from atom_plugin.search.validation import hold_out, stratified_part


def rows(split):
    return {image.numpy().tobytes() for image in split.images}


def test_each_class_gives_its_share_and_nothing_is_lost_or_doubled():
    data = coloured_source(classes=3, per_class=12)
    held = hold_out(data, share=0.25)
    assert held.validation.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert held.rest.train.labels.bincount().tolist() == [9, 9, 9]
    assert rows(held.rest.train) | rows(held.validation) == rows(data.train)
    assert not rows(held.rest.train) & rows(held.validation)
    assert held.rest.test is data.test
    assert held.rest.fingerprint == data.fingerprint


def test_a_division_is_of_its_share_and_seed_and_named_after_them():
    data = coloured_source()
    held, again, other = hold_out(data), hold_out(data), hold_out(data, seed=1)
    assert torch.equal(held.validation.images, again.validation.images)
    assert rows(held.validation) != rows(other.validation)
    names = {held.name, again.name, other.name, hold_out(data, share=0.2).name}
    assert len(names) == 3
    assert all(data.fingerprint in name for name in names)


def test_a_class_of_one_image_cannot_be_divided():
    with pytest.raises(SourceError, match="'class 0' has one image"):
        hold_out(coloured_source(per_class=1))


def test_a_part_is_even_over_the_classes_and_within_a_larger_one():
    data = coloured_source(classes=3, per_class=12)
    small, large = (stratified_part(data.train, count, seed=5) for count in (7, 20))
    assert small.labels.bincount().tolist() == [3, 2, 2]
    assert large.labels.bincount().tolist() == [7, 7, 6]
    assert rows(small) < rows(large) < rows(data.train)
    assert rows(small) != rows(stratified_part(data.train, 7, seed=6))
    assert len(stratified_part(data.train, 99, seed=5)) == 36


def test_a_small_class_gives_all_it_has():
    uneven = Split(
        images=torch.arange(9, dtype=torch.uint8).view(9, 1, 1, 1), labels=torch.tensor([2, 0, 0, 0, 2, 2, 2, 1, 0])
    )
    part = stratified_part(uneven, 6, seed=0)
    assert part.labels.bincount().tolist()[1] == 1
    assert sorted(part.labels.bincount().tolist()) == [1, 2, 3]

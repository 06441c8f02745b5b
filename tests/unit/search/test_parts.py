"""Which images a part holds."""

from __future__ import annotations

import torch
from small import coloured_source

from atom_plugin.datasets import Split
from atom_plugin.datasets.validation import hold_out
from atom_plugin.search.parts import stratified_part, with_validation


def rows(split):
    return {image.numpy().tobytes() for image in split.images}


def test_the_held_out_images_come_back_after_those_of_training():
    data = coloured_source(classes=3, per_class=12)
    held = hold_out(data, 0.25)
    both = with_validation(held)
    assert torch.equal(both.labels, torch.cat([held.train.labels, held.validation.labels]))
    assert rows(both) == rows(data.train)
    assert torch.equal(both.images[len(held.train) :], held.validation.images)
    assert with_validation(data) is data.train


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

"""Parts of a source's real images."""

from __future__ import annotations

import torch

from atom_plugin.datasets import SourceData, Split
from atom_plugin.datasets.validation import part_of
from atom_plugin.runtime.randomness import generator_for


def stratified_part(split: Split, count: int, *, seed: int) -> Split:
    """``count`` images, drawn without replacement, in proportion to the classes.

    A smaller part is contained in a larger one of the same seed. All images if there are no more than ``count``.
    """
    generator = generator_for(seed, "part of the training images")
    order = torch.randperm(len(split), generator=generator)
    order = order[split.labels[order].argsort(stable=True)]  # by class, in the drawn order
    place = torch.cat([torch.arange(size) for size in split.labels.bincount().tolist()])  # in its class
    return part_of(split, order[place.argsort(stable=True)[:count]].sort().values)


def with_validation(source: SourceData) -> Split:
    """The training images followed by the held-out ones, in memory."""
    if source.validation is None:
        return source.train
    both = source.train, source.validation
    return Split(images=torch.cat([each.images for each in both]), labels=torch.cat([each.labels for each in both]))

"""The part of the training images that models are chosen on, so that no choice looks at the test images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from atom_plugin.datasets import SourceData, Split
from atom_plugin.datasets.common import stratified_holdout
from atom_plugin.runtime.randomness import generator_for

SHARE = 0.1
"""Of each class, the share of its training images that is held out where nothing else is asked for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOut:
    """A ``source`` in two parts: ``rest`` has the training images that are left, ``validation`` those that were taken out.

    ``name`` tells the division from others, of other sources too.
    """

    source: SourceData
    rest: SourceData
    validation: Split
    name: str


def hold_out(data: SourceData, *, share: float = SHARE, seed: int = 0) -> HeldOut:
    """Take ``share`` of each class out of the training images, at least one.

    Which ones depends on ``seed`` and on an image's place in the source alone. Raises SourceError for a class of one image.
    """
    labels = data.train.labels
    keys = list(map(str, range(len(labels))))
    held = stratified_holdout(keys, labels.tolist(), fraction=share, seed=seed, class_names=data.class_names)
    out = torch.tensor(held)
    return HeldOut(
        source=data,
        rest=replace(data, train=_rows(data.train, (~out).nonzero().squeeze(1))),
        validation=_rows(data.train, out.nonzero().squeeze(1)),
        name=f"{data.fingerprint} validation {share:g} seed {seed}",
    )


def stratified_part(split: Split, count: int, *, seed: int) -> Split:
    """``count`` images, drawn without replacement, as evenly over the classes as these have images.

    A smaller part is within a larger one of the same seed. All of them where there are no more than ``count``.
    """
    generator = generator_for(seed, "part of the training images")
    order = torch.randperm(len(split), generator=generator)
    order = order[split.labels[order].argsort(stable=True)]  # by class, in the drawn order
    place = torch.cat([torch.arange(size) for size in split.labels.bincount().tolist()])  # in its class
    return _rows(split, order[place.argsort(stable=True)[:count]].sort().values)


def _rows(split: Split, places: torch.Tensor) -> Split:
    return Split(images=split.rows(places), labels=split.labels[places])

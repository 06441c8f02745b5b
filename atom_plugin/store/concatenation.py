"""Several synthetic sets as one: parts of a release, subsets of classes, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from atom_plugin.errors import ConfigError, require
from atom_plugin.store.provenance import merged_provenance
from atom_plugin.store.soft_labels import joined
from atom_plugin.store.synthetic_set import SyntheticSet


def concatenate(sets: Sequence[SyntheticSet], *, names: Sequence[str] | None = None) -> SyntheticSet:
    """All images of ``sets``, class-major, within a class in the order of the sets.

    The provenance keeps each part's own under ``config["merged"]``; a source that all share stays the set's source,
    the seed is the first part's, and iterations are added up. Prefixes stay where no class is in two parts, and a learned
    learning rate where all have the same. Raises ConfigError unless class names, preprocessing and the kind of soft labels are
    the same throughout; ``names`` (file names, say) are what it calls the sets.
    """
    if not sets:
        raise ConfigError("found no sets to concatenate, expected at least one")
    for part in sets:
        require("a set to concatenate", part, SyntheticSet)
    first, called = sets[0], names or [f"set {number}" for number in range(1, len(sets) + 1)]
    for other, name in zip(sets[1:], called[1:], strict=True):
        if other.class_names != first.class_names:
            raise ConfigError(
                f"{called[0]} and {name} differ in their class names ({_difference(first, other)}); only sets of one "
                "source can be merged"
            )
        if not other.preprocessing.matches(first.preprocessing):
            raise ConfigError(
                f"{called[0]} and {name} differ in their preprocessing: {first.preprocessing.describe()} against "
                f"{other.preprocessing.describe()}; make both with the same options on the same training images"
            )
        if (other.factor, other.storage) != (first.factor, first.storage):
            raise ConfigError(
                f"{called[0]} and {name} store images in different ways: {first.storage} packed by {first.factor} against "
                f"{other.storage} packed by {other.factor}; make both with the same --factor and --storage"
            )
    whole = replace(
        first,
        images=torch.cat([part.images for part in sets]),
        labels=torch.cat([part.labels for part in sets]),
        prefixes=_shared_prefixes(sets),
        soft_labels=joined([part.soft_labels for part in sets], names=called),
        learned_lr=first.learned_lr if len({part.learned_lr for part in sets}) == 1 else None,
        provenance=merged_provenance([part.provenance for part in sets]),
    )
    return whole.at(whole.labels.argsort(stable=True))


def _shared_prefixes(sets: Sequence[SyntheticSet]) -> tuple[int, ...]:
    """The prefixes that all parts have; none if parts share a class, because its first images then mix several sets."""
    held = [label for part in sets for label in part.classes]
    if len(set(held)) < len(held):
        return ()
    return tuple(count for count in sets[0].prefixes if all(count in part.prefixes for part in sets))


def _difference(first: SyntheticSet, other: SyntheticSet) -> str:
    mine, theirs = first.class_names, other.class_names
    if len(mine) != len(theirs):
        return f"{len(mine)} against {len(theirs)} classes"
    position = next(index for index, pair in enumerate(zip(mine, theirs, strict=True)) if pair[0] != pair[1])
    return f"class {position} is {mine[position]!r} against {theirs[position]!r}"

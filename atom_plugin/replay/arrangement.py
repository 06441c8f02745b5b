"""The arrangement of a memory's images: the first ones of each class, and several parts in turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from atom_plugin.store.concatenation import concatenate
from atom_plugin.store.synthetic_set import SyntheticSet


def first_rows(labels: torch.Tensor, most: Mapping[int, int]) -> torch.Tensor:
    """The rows of the first ``most[label]`` of each class in ``labels``, int64, class-major."""
    members = [(labels == label).nonzero().flatten()[: most[label]] for label in sorted(set(labels.tolist()))]
    return torch.cat(members) if members else torch.zeros(0, dtype=torch.int64)


def first_images(images: SyntheticSet, most: Mapping[int, int]) -> SyntheticSet:
    """The first ``most[label]`` images of each class, class-major, for any order before."""
    counts = [min(most[label], count) for label, count in Counter(images.labels.tolist()).items()]
    kept = tuple(count for count in images.prefixes if count <= min(counts, default=0))
    return replace(images.at(first_rows(images.labels, most)), prefixes=kept)


def class_major(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The rows of the concatenated class ids ``parts``, class by class, within a class one part after the other."""
    return torch.cat(list(parts)).argsort(stable=True)


def turns(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The order, of rows that are :func:`class_major`, in which the parts of a class are interleaved evenly, each in its own
    order.
    """
    counts = [Counter(part.tolist()) for part in parts]
    order, start = [torch.zeros(0, dtype=torch.int64)], 0
    for label in sorted(set().union(*counts)):
        places = torch.cat([(torch.arange(count[label]) + 0.5) / max(1, count[label]) for count in counts])
        order.append(start + places.argsort(stable=True))
        start += len(places)
    return torch.cat(order)


def in_turns(parts: Sequence[SyntheticSet], *, names: Sequence[str] | None = None) -> SyntheticSet:
    """All images, class-major; within a class the parts are interleaved evenly, each in its own order.

    Raises ConfigError as :func:`~atom_plugin.store.concatenation.concatenate`, which gets ``names``.
    """
    return concatenate(parts, names=names).at(turns([part.labels for part in parts]))

"""The class ids of another toolkit's file, mapped by name to those of a set (``--class-map``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch

from atom_plugin.datasets.class_names import composed
from atom_plugin.errors import ConfigError, listed
from atom_plugin.store.soft_labels import SoftLabels


def table_of(class_map: Mapping[int, str], ids: Iterable[int], names: tuple[str, ...]) -> dict[int, int]:
    """The ids of ``names`` by the ids of the file. Raises ConfigError for a class that is in neither."""
    label_of = {composed(name): label for label, name in enumerate(names)}
    table = {}
    for found in ids:
        name = class_map.get(found)
        if name is None or composed(name) not in label_of:
            missing = (
                "no name for" if name is None else f"the name {name!r}, which is not one of the given classes, for"
            )
            raise ConfigError(
                f"--class-map has {missing} the id {found} of the file; classes are {listed(names, most=3)}"
            )
        table[found] = label_of[composed(name)]
    return table


def names_of(class_map: Mapping[int, str]) -> tuple[str, ...]:
    """The classes by id, where no other names are given. Raises ConfigError for a missing id."""
    absent = next(label for label in range(len(class_map) + 1) if label not in class_map)
    if absent < len(class_map):
        raise ConfigError(f"--class-map names no class {absent}; name all ids up to {max(class_map)}")
    return tuple(class_map[label] for label in range(len(class_map)))


def mapped_soft(soft: SoftLabels, class_map: Mapping[int, str] | None, names: tuple[str, ...]) -> SoftLabels:
    """The soft labels in the order of ``names``, by name. Raises ConfigError if the file's classes differ."""
    if soft.classes != len(names):
        raise ConfigError(
            f"the file's soft labels are over {soft.classes} classes, but there are {len(names)} class names "
            f"({listed(names, most=3)}); give the class names of its source, or --option soft_labels=argmax"
        )
    if class_map is None:
        return soft
    table = table_of(class_map, range(soft.classes), names)
    place = torch.tensor([table[found] for found in range(soft.classes)])
    if len(place.unique()) < len(place):
        raise ConfigError("--class-map gives two ids of the file the same class; name every class once")
    return replace(soft, values=torch.empty_like(soft.values).index_copy(1, place, soft.values))

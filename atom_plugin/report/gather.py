"""Gather the contents of a report: for each set its images, its run's log and its embeddings with real images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from atom_plugin.datasets import SourceData
from atom_plugin.distillation.run_log import read_log
from atom_plugin.errors import AtomError
from atom_plugin.evaluation.embedding_map import EmbeddingMapConfig, draw_embedding_map, embedding_map
from atom_plugin.report.nearest import nearest_real
from atom_plugin.report.pictures import Picture, drawn, row_of
from atom_plugin.store import SetHeader, read_header
from atom_plugin.store.pictures import loss_curve
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.packing import unpack

MOST_CLASSES = 100
_NEAREST_CLASSES, _NEAREST = 20, 4
_MOST_TILES = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """A set of the report, called ``name``, from the file ``path``; ``data`` is its source, if available."""

    name: str
    path: Path
    held: SyntheticSet
    header: SetHeader
    data: SourceData | None = None

    @property
    def log(self) -> list[dict[str, Any]]:
        """The records of the run that made it, if its log is next to it."""
        return read_log(self.path.with_suffix(".log.jsonl"))


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """A class, and each set's images of it, if it has any."""

    name: str
    pictures: tuple[Picture | None, ...]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Images of sets with the same class names: their ``names``, a row per class, and the number of ``more`` classes."""

    title: str
    names: tuple[str, ...]
    rows: tuple[ClassRow, ...]
    more: int = 0


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A picture of one set, or a ``note`` with the reason why there is none."""

    name: str
    picture: Picture | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """For one set, by class name, an image and its nearest real images."""

    name: str
    rows: tuple[ClassRow, ...] = field(default=())
    note: str = ""


def shown_set(path: Path, held: SyntheticSet, name: str, data: SourceData | None) -> Shown:
    """The set in ``path``, already read as ``held``."""
    return Shown(name=name, path=path, held=held, header=read_header(path), data=data)


def galleries(sets: Sequence[Shown], per_class: int) -> list[Gallery]:
    """The decoded images of all sets, and those of packed sets as stored; up to ``per_class`` stored images per class."""
    found = [_gallery("Images, as networks see them", group, per_class, packed=False) for group in _of_one_kind(sets)]
    packed = [each for each in sets if each.held.factor > 1]
    return found + [
        _gallery("Packed images, as they are stored", group, per_class, packed=True) for group in _of_one_kind(packed)
    ]


def _of_one_kind(sets: Sequence[Shown]) -> list[list[Shown]]:
    groups: dict[tuple[str, ...], list[Shown]] = {}
    for each in sets:
        groups.setdefault(each.held.class_names, []).append(each)
    return list(groups.values())


def _gallery(title: str, sets: Sequence[Shown], per_class: int, *, packed: bool) -> Gallery:
    labels = sorted({label for each in sets for label in each.held.classes})
    names = sets[0].held.class_names
    rows = [
        ClassRow(
            name=names[label],
            pictures=tuple(_of_class(each.held, label, names[label], per_class, packed) for each in sets),
        )
        for label in labels[:MOST_CLASSES]
    ]
    more = max(0, len(labels) - MOST_CLASSES)
    return Gallery(title=title, names=tuple(each.name for each in sets), rows=tuple(rows), more=more)


def _of_class(held: SyntheticSet, label: int, name: str, per_class: int, packed: bool) -> Picture | None:
    rows = (held.labels == label).nonzero().flatten()[:per_class].tolist()
    if not rows:
        return None
    images = held.as_stored(rows)
    if packed:
        return row_of(images, f"{len(rows)} packed images of {name}")
    tiles = unpack(images, held.factor)[:_MOST_TILES] if held.factor > 1 else images
    return row_of(tiles, f"{len(tiles)} images of {name}")


def curves(sets: Sequence[Shown]) -> list[Drawn]:
    """The loss curve of each run; nothing for a set without a log."""
    found = []
    for each in sets:
        records: Sequence[Mapping[str, Any]] = each.log
        try:
            picture = drawn(partial(loss_curve, records), f"loss of {each.name}") if records else None
        except AtomError as error:
            found.append(Drawn(name=each.name, note=str(error)))
            continue
        if picture is not None:
            found.append(Drawn(name=each.name, picture=picture))
    return found


def maps(sets: Sequence[Shown], config: EmbeddingMapConfig, absent: Mapping[str, str]) -> list[Drawn]:
    """Each set among its source's real images; ``absent`` has by name the reason why a source is missing."""
    found = []
    for each in sets:
        if each.data is None:
            found.append(Drawn(name=each.name, note=absent[each.name]))
            continue
        try:
            points = embedding_map(each.held, each.data, config)
        except AtomError as error:
            found.append(Drawn(name=each.name, note=str(error)))
            continue
        picture = drawn(partial(draw_embedding_map, points), f"{each.name} among real images")
        found.append(Drawn(name=each.name, picture=picture))
    return found


def neighbours(sets: Sequence[Shown], absent: Mapping[str, str]) -> list[Nearest]:
    """The first image of each class, up to twenty classes, and its nearest real images."""
    found = []
    for each in sets:
        if each.data is None:
            found.append(Nearest(name=each.name, note=absent[each.name]))
            continue
        decoded = each.held.decoded()
        labels = each.held.classes[:_NEAREST_CLASSES]
        rows = [int((decoded.labels == label).nonzero()[0]) for label in labels]
        real = nearest_real(each.held, rows, each.data.train, count=_NEAREST)
        own = each.held.preprocessing.inverse(decoded.images[rows])
        pictures = [
            ClassRow(
                name=each.held.class_names[label],
                pictures=(
                    row_of(own[place : place + 1], f"an image of {each.held.class_names[label]}"),
                    row_of(real[place].float() / 255, f"{_NEAREST} real images of {each.held.class_names[label]}"),
                ),
            )
            for place, label in enumerate(labels)
        ]
        found.append(Nearest(name=each.name, rows=tuple(pictures)))
    return found

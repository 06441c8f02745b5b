"""The options that choose classes of a set, by name or by id. A name that is a number is not an id."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import click

from atom_plugin.cli.command import Command, bundle
from atom_plugin.errors import ConfigError, unknown

if TYPE_CHECKING:
    from atom_plugin.store.synthetic_set import SyntheticSet


@dataclass(frozen=True, kw_only=True)
class ChosenClasses:
    """The values of the options; at most one of the two is not empty."""

    names: tuple[str, ...]
    ids: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.names or self.ids)

    def of(self, held: SyntheticSet) -> SyntheticSet:
        """The chosen classes of ``held``, in the given order; all of ``held`` if none is chosen. Raises as :meth:`labels`."""
        return held.subset(self.labels(held.class_names)) if self else held

    def labels(self, class_names: Sequence[str]) -> list[int]:
        """Their ids. Raises ConfigError for an unknown or ambiguous class, and for a class named twice."""
        wanted = _by_id(self.ids, class_names) if self.ids else _by_name(self.names, class_names)
        if twice := [label for label in wanted if wanted.count(label) > 1]:
            raise ConfigError(f"the class {class_names[twice[0]]!r} (id {twice[0]}) is named twice; name it once")
        return wanted


def classes_options(command: Command) -> Command:
    """``--classes`` and ``--class-ids``: the command gets ``chosen`` (ChosenClasses)."""

    @functools.wraps(command)
    def with_chosen(*args: Any, classes: tuple[str, ...], class_ids: tuple[str, ...], **others: Any) -> Any:
        if classes and class_ids:
            raise click.UsageError("--classes and --class-ids contradict each other; give one of the two")
        return command(*args, chosen=ChosenClasses(names=classes, ids=class_ids), **others)

    return bundle(
        click.option(
            "--classes",
            metavar="NAMES",
            multiple=True,
            help="Class names, comma separated, in the wanted order; repeat the option for names that contain a comma.",
        ),
        click.option(
            "--class-ids",
            metavar="IDS",
            multiple=True,
            help="Class ids, comma separated, in the wanted order, e.g. 4,0,2.",
        ),
    )(cast("Command", with_chosen))


def _by_name(given: Sequence[str], class_names: Sequence[str]) -> list[int]:
    # A whole value that is a name may hold commas.
    items = [item for text in given for item in ([text] if text in class_names else text.split(","))]
    return [_named(item.strip(), class_names) for item in items]


def _named(item: str, class_names: Sequence[str]) -> int:
    # As typed on one system and stored on another, a name may differ in how its characters are composed.
    item = unicodedata.normalize("NFC", item)
    labels = [label for label, name in enumerate(class_names) if unicodedata.normalize("NFC", name).strip() == item]
    if len(labels) > 1:
        raise ConfigError(f"the class name {item!r} stands for the ids {labels}; choose with --class-ids")
    if not labels:
        hint = "; ids are given with --class-ids" if item.isdecimal() else ""
        raise ConfigError(f"{unknown('class', item, class_names)}{hint}")
    return labels[0]


def _by_id(given: Sequence[str], class_names: Sequence[str]) -> list[int]:
    wanted = []
    for item in (part.strip() for text in given for part in text.split(",")):
        known = item.isascii() and item.isdigit() and len(item) < 10 and int(item) < len(class_names)
        if not known:
            raise ConfigError(
                f"--class-ids must be whole numbers from 0 to {len(class_names) - 1}, comma separated, not {item!r}; names are "
                "given with --classes"
            )
        wanted.append(int(item))
    return wanted

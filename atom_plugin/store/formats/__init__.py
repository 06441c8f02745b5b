"""Synthetic sets in other toolkits' formats: names of formats, and the two calls that write and read them.

A format is a module, an object or a class without arguments, registered through the entry-point group
``atom_plugin.formats`` or ``FORMATS.register("name")``. The first line of its docstring describes it. It has one or both of

- ``write(synthetic_set, path, *, force, **options)``: write the set, return notes on what was converted or lost (a list
  of strings, or None);
- ``read(path, context, **options)``: return a :class:`~atom_plugin.store.synthetic_set.SyntheticSet`, made from the file and
  the :class:`~atom_plugin.store.formats.context.ImportContext`.

Its options are the keyword arguments of the two. ``write`` gets decoded images, float32 and preprocessed, one for each tile of
a packed set; a format with ``TAKES_PACKED = True`` stores packed images, and gets them as float32. A format with
``HOLDS_SOFT_LABELS = True`` stores soft labels and a learned learning rate; for other formats, a note lists what is left out.
A format that writes one file may name its ``KIND`` in :data:`~atom_plugin.runtime.endings.ENDINGS`, so that file names of
other kinds are refused. docs/formats.md describes the contents of each built-in format.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atom_plugin.errors import AtomError, ConfigError, PluginError, require
from atom_plugin.runtime.endings import refuse_other_ending
from atom_plugin.runtime.registry import Registry
from atom_plugin.runtime.settings import check_numbers

if TYPE_CHECKING:
    from atom_plugin.store.formats.context import ImportContext
    from atom_plugin.store.synthetic_set import SyntheticSet

FORMATS: Registry[object] = Registry("format", "atom_plugin.formats")
"""Formats by name: built-in formats, formats of installed plugins, and formats added by ``FORMATS.register``."""

_DIRECTIONS = {"write": "exported", "read": "imported"}


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A line of the listing: ``directions`` is "export", "import", both, or empty for a format that cannot be loaded."""

    name: str
    directions: tuple[str, ...]
    description: str


def export_set(
    synthetic_set: SyntheticSet, path: str | Path, *, format: str, force: bool = False, **options: Any
) -> list[str]:
    """Write the set to ``path`` in ``format``; returns notes on what the format changed or cannot represent.

    Raises PluginError for an unknown format, ConfigError for options that do not fit or a set that the format cannot represent,
    StoreError if writing fails or ``path`` exists and ``force`` is not given.
    """
    from atom_plugin.store.synthetic_set import SyntheticSet

    require("synthetic_set", synthetic_set, SyntheticSet)
    write = _direction(format, "write")
    kind = getattr(_loaded(format), "KIND", None)
    if kind is not None:
        refuse_other_ending(Path(path), kind, option=f"the format {format!r}")
    packed = synthetic_set.factor > 1
    if packed and getattr(_loaded(format), "TAKES_PACKED", False):
        given, notes = synthetic_set.stored_as("float32"), []
    else:
        given = synthetic_set.decoded()
        notes = [f"{len(synthetic_set)} packed images were unpacked into {len(given)}"] if packed else []
    _check_options(format, write, (given, Path(path)), {"force": force, **options})
    if not getattr(_loaded(format), "HOLDS_SOFT_LABELS", False):
        notes += _left_out(synthetic_set)
    return [*notes, *(write(given, Path(path), force=force, **options) or [])]


def _left_out(synthetic_set: SyntheticSet) -> list[str]:
    """Notes on the parts of the set that a format without soft labels leaves out."""
    notes = []
    if synthetic_set.soft_labels is not None:
        notes.append(f"labels are class ids: the soft labels ({synthetic_set.soft_labels.kind}) are not in it")
    if synthetic_set.learned_lr is not None:
        notes.append(f"the learned learning rate, {synthetic_set.learned_lr:.6g}, is not in it")
    return notes


def import_set(path: str | Path, *, format: str, context: ImportContext, **options: Any) -> SyntheticSet:
    """Read the set at ``path``, a file or folder in ``format``; ``context.notes`` then lists what was converted.

    The provenance names the origin: format, name, sha256 and options, under ``config["imported"]``. Raises PluginError for an
    unknown format, ConfigError for information that is missing or does not fit, StoreError for a file that cannot be used.
    """
    from atom_plugin.store.synthetic_set import SyntheticSet

    read = _direction(format, "read")
    _check_options(format, read, (Path(path), context), options)
    found = read(Path(path), context, **options)
    if not isinstance(found, SyntheticSet):
        raise PluginError(
            f"the format {format!r} returned a {type(found).__name__} for {path}, expected a SyntheticSet"
        )
    context.refuse_unused(format)
    return context.with_origin(found, format=format, path=Path(path), options=options)


def listing() -> list[Listed]:
    """Every format with its directions, by name."""
    rows = []
    for name in FORMATS.names():
        try:
            held = _loaded(name)
        except AtomError:
            directions: tuple[str, ...] = ()
        else:
            verbs = {"write": "export", "read": "import"}
            directions = tuple(word for verb, word in verbs.items() if callable(getattr(held, verb, None)))
        rows.append(Listed(name=name, directions=directions, description=FORMATS.describe(name)))
    return rows


def format_options(name: str, verb: str) -> dict[str, Any]:
    """The options with their defaults that the format ``name`` takes for ``verb``, "write" or "read"."""
    parameters = inspect.signature(_direction(name, verb)).parameters.values()
    return {item.name: item.default for item in parameters if item.default is not inspect.Parameter.empty}


def _direction(name: str, verb: str) -> Callable[..., Any]:
    function = getattr(_loaded(name), verb, None)
    if not callable(function):
        able = ", ".join(row.name for row in listing() if {"write": "export", "read": "import"}[verb] in row.directions)
        raise ConfigError(f"the format {name!r} cannot be {_DIRECTIONS[verb]}; formats that can: {able}")
    return function  # type: ignore[no-any-return]


def _loaded(name: str) -> object:
    held = FORMATS.get(name)
    if not isinstance(held, type):
        return held
    try:
        return held()
    except Exception as error:
        raise PluginError(
            f"the format {name!r} cannot be made ({type(error).__name__}: {error}); update that distribution"
        ) from error


def _check_options(
    name: str, function: Callable[..., Any], positional: tuple[Any, ...], given: Mapping[str, Any]
) -> None:
    verb = "write" if "force" in given else "read"
    check_numbers(f"the format {name!r}", format_options(name, verb), given)
    try:
        inspect.signature(function).bind(*positional, **given)
    except TypeError as error:
        known = format_options(name, verb)
        unknown = ", ".join(repr(option) for option in given if option not in known and option != "force")
        found = f"found the option {unknown}" if unknown else str(error)
        taken = ", ".join(known) or "none"
        raise ConfigError(f"the format {name!r}: {found}; {_DIRECTIONS[verb]}, it takes the options {taken}") from None

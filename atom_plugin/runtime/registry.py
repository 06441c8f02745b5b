"""A registry for everything that third parties may add: a name, its origin, and how to load it.

An entry comes from an entry point (``[options.entry_points]`` of any installed distribution) or from the decorator
:meth:`Registry.register`, for scripts and tests. Listing names imports nothing; an entry is imported on its first use.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Generic, TypeVar, cast

from atom_plugin.errors import PluginError, unknown

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Entry(Generic[T]):
    """One registered object. ``origin`` is the distribution that provides it, or ``"this process"``."""

    name: str
    origin: str
    load: Callable[[], T]
    description: str | None = None


class Registry(Generic[T]):
    """Names of one kind of object (``kind``, for messages), collected from one entry-point ``group``."""

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._local: dict[str, Entry[T]] = {}

    def register(self, name: str, *, description: str | None = None) -> Callable[[T], T]:
        """Decorator that adds an object of this process under ``name``.

        Raises PluginError if this process already registered another object under the name.
        """

        def add(item: T) -> T:
            held = self._local.get(name)
            if held is not None and held.load() is not item:
                raise PluginError(
                    f"the {self.kind} name {name!r} is already registered in this process; choose another name"
                )
            self._local[name] = Entry(name=name, origin="this process", load=lambda: item, description=description)
            return item

        return add

    def names(self) -> list[str]:
        """All names, sorted. Imports nothing."""
        return sorted(self._claims())

    def entry(self, name: str) -> Entry[T]:
        """The entry of ``name``. Raises PluginError if it is unknown or claimed by two distributions."""
        claims = self._claims()
        if name not in claims:
            raise PluginError(unknown(self.kind, name, sorted(claims)))
        found = claims[name]
        if len(found) > 1:
            origins = " and ".join(sorted(entry.origin for entry in found))
            raise PluginError(f"the {self.kind} name {name!r} is claimed by {origins}; uninstall one of them")
        return found[0]

    def get(self, name: str) -> T:
        """Import and return the object of ``name``. Raises PluginError, also if its import fails."""
        entry = self.entry(name)
        try:
            return entry.load()
        except (Exception, SystemExit) as error:  # a module that calls exit() must not end the caller
            raise PluginError(
                f"the {self.kind} {name!r} of {entry.origin} cannot be loaded "
                f"({type(error).__name__}: {error}); update or uninstall that distribution"
            ) from error

    def describe(self, name: str) -> str:
        """One line for a listing: the given description, or the first line of the object's docstring.

        For a broken or doubly claimed entry the line is its error, so that one bad plugin does not hide others.
        """
        try:
            given = self.entry(name).description
            return given or (inspect.getdoc(self.get(name)) or "").partition("\n")[0]
        except PluginError as error:
            return f"unusable: {error}"

    def _claims(self) -> dict[str, list[Entry[T]]]:
        claims: dict[str, list[Entry[T]]] = {name: [entry] for name, entry in self._local.items()}
        seen: set[tuple[str, str, str]] = set()
        for point in metadata.entry_points(group=self.group):
            origin = point.dist.name if point.dist is not None else point.value
            # A checkout and its installed copy can both show up on sys.path: the same claim, not a quarrel.
            if (point.name, point.value, origin) in seen:
                continue
            seen.add((point.name, point.value, origin))
            entry = Entry(name=point.name, origin=origin, load=cast("Callable[[], T]", point.load))
            claims.setdefault(point.name, []).append(entry)
        return claims

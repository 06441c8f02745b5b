"""Fields of configs. One declaration has a field's type, bounds and help; checks, JSON and options are made from it.

A config is a frozen dataclass with ``@config_class`` above ``@dataclass``, whose fields have :func:`about` as metadata and
whose ``__post_init__`` calls :func:`check_values`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from atom_plugin.errors import ConfigError, require, shown, unknown

COUNT_MAX = 2**31 - 1  # of whole numbers without a bound of their own: nothing here is counted in more
FLOAT32_MAX = (2 - 2**-23) * 2.0**127  # what torch can multiply float32 images by
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Mapping: "a mapping"}
Class = TypeVar("Class", bound=type)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """An interval; ``above`` and ``below`` are excluded, ``at_least`` and ``at_most`` included."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def hold(self, number: float) -> bool:
        """Whether ``number`` is inside."""
        return (
            (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        named = (
            ("at least", self.at_least),
            ("above", self.above),
            ("at most", self.at_most),
            ("below", self.below),
        )
        return " and ".join(f"{words} {bound:,}" for words, bound in named if bound is not None)


@dataclass(frozen=True, kw_only=True)
class About:
    """The description of a field beyond its type and default.

    ``help`` is a sentence that can be read alone. ``group`` is the heading of the field's option; None for a field without an
    option. ``default`` describes the value of an option that is not given. ``was`` is the field's former name, which stored
    configs may have. A field that depends on another choice, which ``beside`` names, is None if it is not given; ``fallback``
    is then its value, if that choice is made.
    """

    help: str
    group: str | None = None
    metavar: str | None = None
    choices: tuple[Any, ...] = ()
    bounds: Bounds = field(default_factory=Bounds)
    unit: str | None = None
    default: str | None = None
    was: str | None = None
    beside: str | None = None
    fallback: Any = None


_NOTHING = About(help="")  # of a field that only has a type


def about(help: str, **known: Any) -> Mapping[str, About]:
    """The metadata of a field: ``field(default=1, metadata=about("Images per class.", at_least=1))``.

    ``known`` are attributes of :class:`About` and of :class:`Bounds`.
    """
    bounds = {name: known.pop(name) for name in ("at_least", "above", "at_most", "below") if name in known}
    return {"about": About(help=help, bounds=Bounds(**bounds), **known)}


def abouts(config: type) -> dict[str, About]:
    """The description of each field of a config; empty for a field without a declaration."""
    return {each.name: each.metadata.get("about", _NOTHING) for each in fields(config)}


def config_class(cls: Class) -> Class:
    """Let the constructor of a dataclass raise ConfigError for an unknown or a missing name."""
    construct = vars(cls)["__init__"]

    @functools.wraps(construct)
    def construct_with_known_names(self: Any, *args: Any, **given: Any) -> None:
        _check_names(cls, given)
        construct(self, *args, **given)

    setattr(cls, "__init__", construct_with_known_names)  # noqa: B010 - to assign is what a type checker forbids
    return cls


def _check_names(cls: type, given: Mapping[str, Any]) -> None:
    known = {each.name: each for each in fields(cls)}
    former = {item.was: name for name, item in abouts(cls).items() if item.was}
    for name in given:
        if name in former and name not in known:
            raise ConfigError(f"{name} is the former name of {former[name]}; give {former[name]}")
        if name not in known:
            raise ConfigError(unknown(f"field of {cls.__name__}", name, known))
    for name, each in known.items():
        if each.default is MISSING and each.default_factory is MISSING and name not in given:
            raise ConfigError(f"{cls.__name__} was given no {name}; {abouts(cls)[name].help.rstrip('.')}: give it")


def check_values(config: object, **late: type) -> None:
    """Raise ConfigError for the first field of a wrong type, outside its bounds, or not one of its choices.

    ``late`` maps the names in annotations to types that the config's module does not import at run time.
    """
    hints = _hints(type(config), tuple(late.items()))  # type: ignore[arg-type]  # classes are hashable
    for name, item in abouts(type(config)).items():
        check_value(name, getattr(config, name), hints[name], item)


@functools.cache
def _hints(cls: type, late: tuple[tuple[str, type], ...]) -> dict[str, Any]:
    names = {
        name: value for base in reversed(cls.__mro__) for name, value in vars(sys.modules[base.__module__]).items()
    }
    return get_type_hints(cls, globalns=names, localns=dict(late))


def check_value(name: str, value: Any, hint: Any, item: About = _NOTHING) -> None:
    """Raise ConfigError unless ``value`` has the type ``hint``, and fits ``item``."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if value is None and NoneType in kinds:
        return
    (kind,) = (get_origin(each) or each for each in kinds if each is not NoneType)
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{name} must be {_WORDS.get(kind) or f'a {kind.__name__}'}, not {shown(value)}")
    if item.choices and value not in item.choices:
        raise ConfigError(f"{name} must be one of {', '.join(map(str, item.choices))}, not {shown(value)}")
    if kind in (int, float) and not item.bounds.hold(value):
        raise ConfigError(f"{name} must be {item.bounds}, not {shown(value)}")
    if kind is int and item is not _NOTHING and item.bounds.at_most is None and abs(value) > COUNT_MAX:
        raise ConfigError(f"{name} must be at most {COUNT_MAX:,}, not {shown(value)}")
    if kind is float and not abs(value) <= FLOAT32_MAX:
        raise ConfigError(f"{name} must be finite in float32 (at most {FLOAT32_MAX:.3g}), not {shown(value)}")


def check_numbers(what: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise ConfigError where an option of ``what`` is text and its default a number: options of plugins check nothing."""
    for name, value in given.items():
        default = defaults.get(name)
        if isinstance(value, str) and isinstance(default, (int, float)):
            raise ConfigError(
                f"{what} does not accept {name}={shown(value)}; it must be {_WORDS[type(default)]} (default: {default!r})"
            )


def current_names(config: type, stored: Mapping[str, Any]) -> dict[str, Any]:
    """A config's stored JSON with former names replaced by current ones. Raises ConfigError if it is not a mapping."""
    require(f"the stored {config.__name__}", stored, Mapping)
    former = {item.was: name for name, item in abouts(config).items() if item.was}
    return {former.get(name, name): value for name, value in stored.items()}


def without_unknown(config: type, stored: Mapping[str, Any]) -> dict[str, Any]:
    """``stored``. Raises ConfigError for a name that this release does not know, because a newer one wrote it."""
    if unknown := sorted(set(stored) - {each.name for each in fields(config)}):
        raise ConfigError(f"the stored config has {', '.join(unknown)}, which this release does not know; update")
    return dict(stored)

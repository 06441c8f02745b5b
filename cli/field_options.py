"""Options made from the fields of a config: the field gives type, choices, bounds, help and heading."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any

import click

from atom_plugin.cli.choices import Choice
from atom_plugin.cli.command import Command, RenamedOption, bundle
from atom_plugin.cli.options import Number
from atom_plugin.cli.sizes import SIZE
from atom_plugin.runtime.settings import About, abouts

if TYPE_CHECKING:
    _NamesType = click.ParamType[tuple[str, ...]]
else:
    _NamesType = click.ParamType  # click 8.2 can't be asked for `ParamType[...]` at run time


class _Names(_NamesType):
    """Names joined by commas."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """The names, without surrounding spaces."""
        names = value if isinstance(value, tuple) else tuple(name.strip() for name in value.split(","))
        if not all(names):
            self.fail(f"found {value!r}, expected names joined by commas, e.g. layer1,layer2", param, ctx)
        return names


class _FieldOption(RenamedOption):
    """An option under its field's heading."""

    def __init__(self, declarations: Sequence[str], *, heading: str, **attributes: Any) -> None:
        super().__init__(declarations, **attributes)
        self.heading = heading


def field_options(config: type, *, first: Sequence[str] = (), default: str = "") -> Callable[[Command], Command]:
    """Options for the fields of ``config`` that have a heading, the ``first`` ones before others; None if not given.

    ``default`` describes the default, unless the field does.
    """
    named = sorted(fields(config), key=lambda each: first.index(each.name) if each.name in first else len(first))
    return bundle(*(_option(each, default) for each in named if each.metadata["about"].group))


def given_fields(config: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """The parsed ``options`` that are fields of ``config`` and were given."""
    return {name: options[name] for name in abouts(config) if options.get(name) is not None}


def _option(each: Field[Any], default: str) -> Callable[[Command], Command]:
    item: About = each.metadata["about"]
    flag, hint = "--" + each.name.replace("_", "-"), str(each.type)
    default = item.default or ("" if item.fallback is None else str(item.fallback)) or default
    required = each.default is MISSING and each.default_factory is MISSING
    note = "  [required]" if required else f"  [default: {default}]" if default else ""
    old = ("--" + item.was.replace("_", "-"),) if item.was else ()
    return click.option(
        f"{flag}/--no-{flag[2:]}" if hint.startswith("bool") else flag,
        default=None,
        type=_type(hint, item),
        metavar=item.metavar,
        help=item.help + note,
        cls=_FieldOption,
        heading=item.group,
        old=old,
    )


def _type(hint: str, item: About) -> click.ParamType[Any] | None:
    if item.choices:
        return Choice(item.choices)
    if hint.startswith("tuple[str"):
        return _Names()
    if item.unit == "bytes":
        return SIZE
    kinds: dict[str, type[int] | type[float]] = {"int": int, "float": float}
    kind = kinds.get(hint.removesuffix(" | None"))
    return None if kind is None else Number(kind, **vars(item.bounds))

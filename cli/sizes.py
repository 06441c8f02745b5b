"""Amounts of memory on the command line: "2GB", "512 MB", "1.5GiB"."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from atom_plugin.cli.command import option_label
from atom_plugin.errors import shown

if TYPE_CHECKING:
    _SizeType = click.ParamType[int]
else:
    _SizeType = click.ParamType  # click 8.2 can't be asked for `ParamType[...]` at run time

UNITS = {"B": 1} | {
    f"{letter}{infix}B": base**power
    for infix, base in (("", 1000), ("i", 1024))
    for power, letter in enumerate("KMGT", 1)
}
_FORM = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([A-Za-z]*)", re.ASCII)


class Size(_SizeType):
    """A number and a unit, in bytes: KB, MB, GB, TB are powers of 1,000, KiB, MiB, GiB, TiB of 1,024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Raises UsageError for a wrong amount or an unknown unit."""
        label = "the size" if param is None else option_label(param)
        found = _FORM.fullmatch(str(value).strip())
        if found is None:
            raise click.UsageError(f"{label} must be a number and a unit, such as 2GB or 512MiB, not {value!r}", ctx)
        known = {unit.lower(): factor for unit, factor in UNITS.items()}
        number, unit = found.groups()
        if unit.lower() not in known:
            given = f"unit {unit!r}" if unit else "no unit"
            raise click.UsageError(f"{label} {value!r} has {given}; units are {', '.join(UNITS)}", ctx)
        size = float(number) * known[unit.lower()]
        if not 1 <= size < 2**63:
            raise click.UsageError(f"{label} must be 1 byte to {2**33} GiB, not {shown(value)}", ctx)
        return int(size)


SIZE = Size()

"""Options that several commands share, and option types whose errors name option, bound and value."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atom_plugin.cli.choices import Choice
from atom_plugin.cli.command import Command, OnlyWith, bundle, option_label
from atom_plugin.errors import shown
from atom_plugin.models.convnet_choices import NORMALISATIONS
from atom_plugin.runtime import bounded_json
from atom_plugin.runtime.settings import COUNT_MAX, FLOAT32_MAX, Bounds

if TYPE_CHECKING:
    _NumberType = click.ParamType[int | float]
else:
    _NumberType = click.ParamType  # click 8.2 can't be asked for `ParamType[...]` at run time

_MOST_DIGITS = 40


def _one_at_a_time(value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
    """What to do with several numbers, or a range of them, where one is expected; empty for other text."""
    if not re.fullmatch(r"\d+(\s*[,-]\s*\d+)+", str(value)):
        return ""
    plural = f"{param.name}s" if param is not None else ""
    if ctx is not None and any(each.name == plural for each in ctx.command.params):
        return f"; --{plural} takes several"
    return "; give one, and run the command again for each of the others"


class Number(_NumberType):
    """A number of ``kind`` int or float, within :class:`~atom_plugin.runtime.settings.Bounds`.

    A whole number without an upper bound is at most COUNT_MAX; every other number is finite in float32.
    """

    def __init__(self, kind: type[int] | type[float], **bounds: float | None) -> None:
        self.kind = kind
        self.name = "integer" if kind is int else "number"
        self.bounds = Bounds(**bounds)
        self.most = FLOAT32_MAX if kind is float else COUNT_MAX if self.bounds.at_most is None else self.bounds.at_most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        """Raises UsageError with a message like "--ipc must be at least 1, not 0"."""
        label = "the value" if param is None else option_label(param)
        try:
            # Python converts no whole number of thousands of digits; as a float such a one is infinite.
            long = self.kind is int and len(str(value)) > _MOST_DIGITS
            number = float(value) if long else self.kind(value)
        except ValueError:
            what = "a whole number" if self.kind is int else "a number"
            raise click.UsageError(
                f"{label} must be {what}, not {shown(value)}{_one_at_a_time(value, param, ctx)}", ctx
            ) from None
        found = shown(value).strip("'")
        if not self.bounds.hold(number):
            raise click.UsageError(f"{label} must be {self.bounds}, not {found}", ctx)
        if not abs(number) <= self.most:
            most = f"at most {self.most:,}" if self.kind is int else "finite in float32"
            raise click.UsageError(f"{label} must be {most}, not {found}", ctx)
        return number


class PathType(click.Path):
    """A path as a Path. Expands ``~`` and ``~user``, since a shell does not expand ``--output=~/x.h5``."""

    def __init__(self, *, file_okay: bool = True) -> None:
        super().__init__(file_okay=file_okay, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Expand ``value``, then convert as click does."""
        return super().convert(os.path.expanduser(value), param, ctx)  # noqa: PTH111 (Path's raises for an unknown user)


PATH = PathType()
FOLDER = PathType(file_okay=False)
POSITIVE_INT = Number(int, at_least=1)
NON_NEGATIVE_INT = Number(int, at_least=0)
POSITIVE_FLOAT = Number(float, above=0)
FRACTION = Number(float, above=0, below=1)
SHARE = Number(float, at_least=0, at_most=1)
SEED = Number(int, at_least=0, at_most=2**63 - 1)
NORMALISATION = Choice(NORMALISATIONS)


def run_options(command: Command) -> Command:
    """The options of every computation: the command gets ``seed``, ``device``, ``precision`` and ``quiet``."""
    return bundle(
        seed_option,
        device_option,
        click.option(
            "--precision",
            type=Choice(["auto", "float32", "bfloat16"]),
            default="auto",
            show_default=True,
            help="Number format of the networks' arithmetic; auto takes bfloat16 if the device computes it fast, so "
            "results differ between devices.",
        ),
        quiet_option,
    )(command)


def placing_network_option(*, default: str) -> Callable[[Command], Command]:
    """``--network-state`` of the network that places images as points: the command gets ``network_state``."""
    return click.option(
        "--network-state",
        metavar="STATE",
        default=default,
        show_default=True,
        help="State of the network that computes the points: random, or trained:EPOCHS on the real images first.",
    )


def device_option(command: Command) -> Command:
    """``--device``: the command gets ``device``."""
    return click.option(
        "--device",
        type=Choice(["auto", "cpu", "cuda", "mps"]),
        default="auto",
        show_default=True,
        help="Device to compute on; auto takes an accelerator if there is one.",
    )(command)


def seed_option(command: Command) -> Command:
    """``--seed``: the command gets ``seed``."""
    return click.option(
        "--seed",
        metavar="N",
        type=SEED,
        default=0,
        show_default=True,
        help="Seed of all random draws; the same seed on the same machine gives the same result.",
    )(command)


def quiet_option(command: Command) -> Command:
    """``--quiet``: the command gets ``quiet``."""
    return click.option("-q", "--quiet", is_flag=True, help="Show no progress on stderr, only errors.")(command)


def output_option(default: str) -> Callable[[Command], Command]:
    """``--output``, the set's file: the command gets ``output``, None for the name that ``default`` describes."""
    return click.option(
        "-o",
        "--output",
        metavar="FILE",
        type=PATH,
        help=f"File of the set.  [default: {default}, with -seedN before .h5 if --seed is not 0]",
    )


def force_option(command: Command) -> Command:
    """``--force``: the command gets ``force``."""
    return click.option("--force", is_flag=True, help="Replace an existing output file.")(command)


def json_option(command: Command) -> Command:
    """``--json``: the command gets ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print only the result, as JSON.")(command)


def latex_option(command: Command) -> Command:
    """``--latex``: the command gets ``latex``; see :data:`TABLE_PRINTED`."""
    return click.option(
        "--latex", is_flag=True, help="Print tables as LaTeX rows (booktabs), and other lines as LaTeX comments."
    )(command)


def refuse_table_file(files: Sequence[Path]) -> None:
    """Raise UsageError where one of ``files``, sets to read, is the name of a table that ``--latex`` was to write."""
    for file in files:
        if file.suffix.lower() == ".tex":
            raise click.UsageError(
                f"--latex prints the table and takes no file; leave {file} out, and end with  > {file}"
            )


TABLE_PRINTED = OnlyWith("a table, which --json leaves out", ("latex",), lambda values: not values["as_json"])
"""For commands with ``--latex`` and ``--json``."""


def key_value_pairs(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, Any]:
    """``KEY=VALUE`` items as a dict; a value that is valid JSON is parsed, any other is a string."""
    pairs: dict[str, Any] = {}
    for item in given:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise click.UsageError(f"{param.opts[0]} must be KEY=VALUE, not {item!r}", ctx)
        try:
            pairs[key.replace("-", "_")] = bounded_json.parse(value)
        except bounded_json.OutOfBounds as error:
            raise click.UsageError(f"{param.opts[0]} {key}: {error}", ctx) from None
        except ValueError:
            pairs[key.replace("-", "_")] = value
    return pairs

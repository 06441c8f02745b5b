"""``--seeds``: one set for each of several seeds, and the names of their files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atom_plugin.cli.command import Command, is_given, option_label
from atom_plugin.cli.options import Number
from atom_plugin.cli.outputs import default_name
from atom_plugin.errors import shown

if TYPE_CHECKING:
    _SeedsType = click.ParamType[tuple[int, ...]]
else:
    _SeedsType = click.ParamType  # click 8.2 can't be asked for `ParamType[...]` at run time

_SEED = Number(int, at_least=0, at_most=2**64 - 1)
_MOST = 1000
_PART = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", re.ASCII)


class Seeds(_SeedsType):
    """Seeds and spans of seeds, joined by commas: "0-4", "0,2,5"."""

    name = "seeds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """The seeds in their order. Raises UsageError for invalid seeds, for a seed named twice, and for too many seeds."""
        label = "the seeds" if param is None else option_label(param)
        seeds: list[int] = []
        for part in str(value).split(","):
            found = _PART.fullmatch(part)
            if found is None:
                raise click.UsageError(f"{label} must be seeds such as 0-4 or 0,2,5, not {shown(value)}", ctx)
            first, last = (int(_SEED.convert(text, param, ctx)) for text in (found[1], found[2] or found[1]))
            if not 0 <= last - first < _MOST - len(seeds):
                raise click.UsageError(
                    f"{label} must name at most {_MOST:,} seeds, spans from the lower to the higher, not {shown(value)}",
                    ctx,
                )
            seeds += range(first, last + 1)
        if twice := [seed for seed in seeds if seeds.count(seed) > 1]:
            raise click.UsageError(f"{label} names {twice[0]} twice; name it once", ctx)
        return tuple(seeds)


def seeds_option(command: Command) -> Command:
    """``--seeds``: the command gets ``seeds``, None where it is not given."""
    return click.option(
        "--seeds",
        metavar="N-M|N,M,…",
        type=Seeds(),
        help="Make one set for each of these seeds; each file name gets -seedN if N is not 0.",
    )(command)


def seeds_of(ctx: click.Context, seed: int, seeds: tuple[int, ...] | None) -> tuple[int, ...]:
    """The seeds of the command. Raises UsageError if both options are given."""
    if seeds and is_given(ctx, "seed"):
        raise click.UsageError("--seed and --seeds contradict each other; give one of the two", ctx)
    return seeds or (seed,)


def output_of(output: Path | None, parts: Sequence[str], seed: int, *, swept: bool) -> Path:
    """The file of a seed's set: ``output``, with the seed in its name if there are several, or a default name from its
    ``parts``.
    """
    if output is None:
        return default_name(*parts, seed=seed, suffix=".h5")
    return output.with_name(str(default_name(output.stem, seed=seed, suffix=output.suffix))) if swept else output

"""Options that several commands share, in bundles, and number types whose errors name option, bound and value."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

if TYPE_CHECKING:
    _NumberType = click.ParamType[int | float]
else:
    _NumberType = click.ParamType  # click 8.2 can't be asked for `ParamType[...]` at run time

Command = TypeVar("Command", bound=Callable[..., Any])


class Number(_NumberType):
    """A finite number within bounds, of ``kind`` int or float; ``above`` and ``below`` are themselves excluded."""

    def __init__(
        self,
        kind: type[int] | type[float],
        *,
        at_least: float | None = None,
        above: float | None = None,
        at_most: float | None = None,
        below: float | None = None,
    ) -> None:
        self.kind = kind
        self.name = "integer" if kind is int else "number"
        bounds = (("at least", at_least), ("above", above), ("at most", at_most), ("below", below))
        self.expected = " and ".join(f"{words} {bound:,}" for words, bound in bounds if bound is not None)
        self.holds: Callable[[float], bool] = lambda number: (
            (at_least is None or number >= at_least)
            and (above is None or number > above)
            and (at_most is None or number <= at_most)
            and (below is None or number < below)
        )

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        """Raises UsageError, in words of its own: "--ipc must be at least 1, not 0"."""
        label = "the value" if param is None else option_label(param)
        try:
            number = self.kind(value)
        except ValueError:
            what = "a whole number" if self.kind is int else "a number"
            raise click.UsageError(f"{label} must be {what}, not {value!r}", ctx) from None
        if not (math.isfinite(number) and self.holds(number)):
            raise click.UsageError(f"{label} must be {self.expected or 'finite'}, not {value}", ctx)
        return number


class PathType(click.Path):
    """A path as a Path, ``~`` and ``~user`` expanded, which a shell leaves alone in ``--output=~/x.h5``."""

    def __init__(self, *, file_okay: bool = True) -> None:
        super().__init__(file_okay=file_okay, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """``value`` expanded, then as click takes it."""
        return super().convert(os.path.expanduser(value), param, ctx)  # noqa: PTH111 (Path's raises for an unknown user)


PATH = PathType()
FOLDER = PathType(file_okay=False)
POSITIVE_INT = Number(int, at_least=1)
POSITIVE_FLOAT = Number(float, above=0)
FRACTION = Number(float, above=0, below=1)
SEED = Number(int, at_least=0, at_most=2**63 - 1)
NORMALISATION = click.Choice(["none", "batch", "layer", "instance", "group"])  # written out: importing them takes torch


def source_options(command: Command) -> Command:
    """The options that say which real images: the command gets ``dataset`` (str) and ``request`` (SourceRequest)."""

    @functools.wraps(command)
    def with_request(
        *args: Any,
        data_dir: Path | None,
        image_size: int | None,
        download: bool,
        test_fraction: float,
        split_seed: int,
        cache_dir: Path | None,
        workers: int | None,
        **others: Any,
    ) -> Any:
        from atom_plugin.datasets import SourceRequest

        request = SourceRequest(
            data_dir=data_dir,
            image_size=image_size,
            download=download,
            seed=split_seed,
            test_fraction=test_fraction,
            cache_dir=cache_dir,
            workers=workers,
            progress=not others.get("quiet", False),
        )
        return command(*args, request=request, **others)

    return bundle(
        click.option(
            "--dataset",
            metavar="NAME",
            default="digits",
            show_default=True,
            help="Image source: digits (embedded), mnist, fashion-mnist, svhn, cifar10, cifar100, "
            "folder (your own images, with --data-dir), packed (a folder with decoded images, images.h5), or a plugin's.",
        ),
        click.option(
            "--data-dir",
            metavar="FOLDER",
            type=FOLDER,
            help="Where the source's files are, or go.  [default: the source's own place]",
        ),
        click.option(
            "--image-size",
            metavar="PIXELS",
            type=POSITIVE_INT,
            help="Resize images to this side, square.  [default: the source's own size]",
        ),
        click.option("--download", is_flag=True, help="Fetch the source's files even where they are present."),
        click.option(
            "--test-fraction",
            metavar="SHARE",
            type=FRACTION,
            default=0.2,
            show_default=True,
            help="Share of a folder without test/ or val/ that is kept for testing, 0 to 1.",
        ),
        click.option(
            "--split-seed",
            metavar="N",
            type=SEED,
            default=0,
            show_default=True,
            # Apart from --seed, so that sets made with different seeds are tested on the same images.
            help="Seed of that split of a folder.",
        ),
        click.option(
            "--cache-dir",
            metavar="FOLDER",
            type=FOLDER,
            help="Where decoded images are kept.  [default: the user's cache folder]",
        ),
        click.option(
            "--workers",
            metavar="N",
            type=POSITIVE_INT,
            help="Processes that decode images.  [default: one per core]",
        ),
    )(cast("Command", with_request))


def run_options(command: Command) -> Command:
    """How a computation runs: the command gets ``seed``, ``device``, ``precision`` and ``quiet``."""
    return bundle(
        seed_option,
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu", "cuda", "mps"]),
            default="auto",
            show_default=True,
            help="Where to compute; auto takes an accelerator if there is one.",
        ),
        click.option(
            "--precision",
            type=click.Choice(["auto", "float32", "bfloat16"]),
            default="auto",
            show_default=True,
            help="Arithmetic of the networks; auto takes bfloat16 where the device is fast at it, so that results differ "
            "between devices and processors.",
        ),
        quiet_option,
    )(command)


def seed_option(command: Command) -> Command:
    """``--seed``: the command gets ``seed``."""
    return click.option(
        "--seed",
        metavar="N",
        type=SEED,
        default=0,
        show_default=True,
        help="Seed of every random draw: same seed and machine, same result.",
    )(command)


def quiet_option(command: Command) -> Command:
    """``--quiet``: the command gets ``quiet``."""
    return click.option("-q", "--quiet", is_flag=True, help="Show no progress on stderr, only errors.")(command)


def force_option(command: Command) -> Command:
    """``--force``: the command gets ``force``."""
    return click.option("--force", is_flag=True, help="Replace an existing output file.")(command)


def json_option(command: Command) -> Command:
    """``--json``: the command gets ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, and only that.")(command)


def bundle(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """One decorator of several; ``--help`` lists their options in the given order."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


class RenamedOption(click.Option):
    """An option that had other names before: ``old`` ones are still taken, but neither help nor messages show them.

    Of use as ``click.option("--new", cls=RenamedOption, old=("--before",), …)``.
    """

    def __init__(self, declarations: Sequence[str], *, old: Sequence[str], **attributes: Any) -> None:
        super().__init__([*declarations, *old], **attributes)
        self.old = old

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """As click makes it, of the names that are not old."""
        shown = copy.copy(self)
        shown.opts = [name for name in self.opts if name not in self.old]
        return click.Option.get_help_record(shown, ctx)


def option_label(param: click.Parameter) -> str:
    """The longest name of an option that is not an old one, for messages."""
    return max((name for name in param.opts if name not in getattr(param, "old", ())), key=len)


def gathered(name: str, kind: type[Any]) -> Callable[[Command], Command]:
    """The options that are fields of the dataclass ``kind`` come to the command as one argument ``name``.

    Stands between the options and the command.
    """
    names = [field.name for field in dataclasses.fields(kind)]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_one(*args: Any, **given: Any) -> Any:
            value = kind(**{field: given.pop(field) for field in names})
            return command(*args, **{name: value}, **given)

        return cast("Command", with_one)

    return decorate


def is_given(ctx: click.Context, name: str) -> bool:
    """Whether the user chose the parameter ``name``, rather than leaving its default."""
    source = ctx.get_parameter_source(name)
    return source is not None and source is not click.core.ParameterSource.DEFAULT


def key_value_pairs(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, Any]:
    """``KEY=VALUE`` items as a dict; a value that is JSON is read as such, any other is a string."""
    pairs: dict[str, Any] = {}
    for item in given:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise click.UsageError(f"{param.opts[0]} must be KEY=VALUE, not {item!r}", ctx)
        try:
            pairs[key.replace("-", "_")] = json.loads(value)
        except ValueError:
            pairs[key.replace("-", "_")] = value
    return pairs

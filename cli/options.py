"""Options that several commands share, in bundles, and number types whose errors name option, bound and value."""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from atom_plugin.errors import shown
from atom_plugin.models.convnet_choices import NORMALISATIONS
from atom_plugin.runtime import bounded_json
from atom_plugin.runtime.settings import COUNT_MAX, FLOAT32_MAX, Bounds

if TYPE_CHECKING:
    from atom_plugin.datasets import SourceRequest

    _NumberType = click.ParamType[int | float]
else:
    _NumberType = click.ParamType  # click 8.2 can't be asked for `ParamType[...]` at run time

_MOST_DIGITS = 40
Command = TypeVar("Command", bound=Callable[..., Any])


class Number(_NumberType):
    """A number of ``kind`` int or float, within :class:`~atom_plugin.runtime.settings.Bounds`.

    Without an upper bound of its own a whole number is at most COUNT_MAX; every other number is finite in float32.
    """

    def __init__(self, kind: type[int] | type[float], **bounds: float | None) -> None:
        self.kind = kind
        self.name = "integer" if kind is int else "number"
        self.bounds = Bounds(**bounds)
        self.most = FLOAT32_MAX if kind is float else COUNT_MAX if self.bounds.at_most is None else self.bounds.at_most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        """Raises UsageError, in words of its own: "--ipc must be at least 1, not 0"."""
        label = "the value" if param is None else option_label(param)
        try:
            # Python converts no whole number of thousands of digits; as a float such a one is infinite.
            long = self.kind is int and len(str(value)) > _MOST_DIGITS
            number = float(value) if long else self.kind(value)
        except ValueError:
            what = "a whole number" if self.kind is int else "a number"
            raise click.UsageError(f"{label} must be {what}, not {shown(value)}", ctx) from None
        found = shown(value).strip("'")
        if not self.bounds.hold(number):
            raise click.UsageError(f"{label} must be {self.bounds}, not {found}", ctx)
        if not abs(number) <= self.most:
            most = f"at most {self.most:,}" if self.kind is int else "finite in float32"
            raise click.UsageError(f"{label} must be {most}, not {found}", ctx)
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
SHARE = Number(float, at_least=0, at_most=1)
SEED = Number(int, at_least=0, at_most=2**63 - 1)
NORMALISATION = click.Choice(NORMALISATIONS)


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
        class_order: str | None,
        bit_depth: int | None,
        max_pixels: int | None,
        follow_links: bool,
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
            class_order=class_order,
            bit_depth=bit_depth,
            max_pixels=max_pixels,
            follow_links=follow_links,
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
            help="Seed of the split of a folder without test/ or val/, and of the images that --validation holds out.",
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
        click.option(
            "--class-order",
            type=click.Choice(["name", "natural"]),  # written out: importing them takes Pillow
            help="Of a folder: class ids in the order of names, or with numbers by value, 2 before 10.  [default: name]",
        ),
        click.option(
            "--bit-depth",
            metavar="BITS",
            type=Number(int, at_least=8, at_most=16),
            help="Of a folder: how many bits its 16-bit grey images use, such as 12.  [default: 16]",
        ),
        click.option(
            "--max-pixels",
            metavar="N",
            type=POSITIVE_INT,
            help="Of a folder: refuse image files of more pixels than that.  [default: 89,478,485]",
        ),
        click.option("--follow-links", is_flag=True, help="Of a folder: follow links that lead out of it as well."),
    )(cast("Command", with_request))


def validation_option(command: Command) -> Command:
    """``--validation``, below :func:`source_options`: the command's ``request`` holds it."""

    @functools.wraps(command)
    def with_validation(*args: Any, validation: float | None, request: SourceRequest, **others: Any) -> Any:
        return command(*args, request=dataclasses.replace(request, validation=validation), **others)

    return click.option(
        "--validation",
        metavar="FRACTION|N",
        type=Number(float, above=0),
        help="Hold out a part of each class's training images, a share below 1 or their number, for `consume evaluate --on "
        "validation`.",
    )(cast("Command", with_validation))


def run_options(command: Command) -> Command:
    """How a computation runs: the command gets ``seed``, ``device``, ``precision`` and ``quiet``."""
    return bundle(
        seed_option,
        device_option,
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


def device_option(command: Command) -> Command:
    """``--device``: the command gets ``device``."""
    return click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda", "mps"]),
        default="auto",
        show_default=True,
        help="Where to compute; auto takes an accelerator if there is one.",
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


def output_option(default: str) -> Callable[[Command], Command]:
    """``--output``, the set to write: the command gets ``output``, None where it is called as ``default`` says."""
    return click.option(
        "-o",
        "--output",
        metavar="FILE",
        type=PATH,
        help=f"The set to write.  [default: {default}, with -seedN before .h5 where --seed is not 0]",
    )


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
        super().__init__(declarations, **attributes)
        self.old = list(old)
        self._by_old_name = f"{self.name} by an old name"

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """The old names beside the others, as an option of its own, so that both at once can be told."""
        super().add_to_parser(parser, ctx)
        other = copy.copy(self)
        other.opts, other.name = self.old, self._by_old_name
        click.Option.add_to_parser(other, parser, ctx)

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """Raises UsageError where a new and an old name are given."""
        if self._by_old_name in opts:
            if self.name in opts:
                new = option_label(self)
                raise click.UsageError(f"{new} was called {self.old[0]} before; give {new} alone", ctx)
            opts = {**opts, str(self.name): opts[self._by_old_name]}
        return super().handle_parse_result(ctx, opts, args)


def option_label(param: click.Parameter) -> str:
    """The longest name of an option, for messages."""
    return max(param.opts, key=len)


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


def section(title: str, *decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """As :func:`bundle`, with all the options under the heading ``title`` in the help of a :class:`SectionedCommand`."""

    def decorate(command: Command) -> Command:
        before = [id(option) for option in _options(command)]
        command = bundle(*decorators)(command)
        for option in _options(command):
            if id(option) not in before and not hasattr(option, "section"):
                option.section = title  # type: ignore[attr-defined]
        return command

    return decorate


def _options(command: Any) -> list[click.Parameter]:
    """Those that click's decorators have left so far."""
    return list(getattr(command, "__click_params__", ()))


class SectionedCommand(click.Command):
    """A command whose help lists its options under headings, in the order in which these first come up."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click does it, heading by heading; options of no section come last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            if (record := option.get_help_record(ctx)) is not None:
                sections.setdefault(getattr(option, "section", "Other options"), []).append(record)
        for title in sorted(sections, key="Other options".__eq__):
            with formatter.section(title):
                formatter.write_dl(sections[title])


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
            pairs[key.replace("-", "_")] = bounded_json.parse(value)
        except bounded_json.OutOfBounds as error:
            raise click.UsageError(f"{param.opts[0]} {key}: {error}", ctx) from None
        except ValueError:
            pairs[key.replace("-", "_")] = value
    return pairs

"""The kinds of commands and options: bundles of options, renamed options, options from a file, options that need another."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import click
from click.core import ParameterSource

from atom_plugin.cli import config_files
from atom_plugin.cli.headings import HEADINGS, OTHER, heading
from atom_plugin.cli.terminal import echo, phases_shown
from atom_plugin.errors import unknown

Command = TypeVar("Command", bound=Callable[..., Any])
ALL_OPTIONS = f"{__name__}.all"
"""Key of a context's ``meta``: true if help shows all options."""

_PRINT, _WORDS = f"{__name__}.print", f"{__name__}.words"


def bundle(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Combine decorators into one; ``--help`` lists their options in the given order."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


class RenamedOption(click.Option):
    """An option that was renamed. It still accepts the ``old`` names, but help and messages show only the new one.

    Usage: ``click.option("--new", cls=RenamedOption, old=("--before",), …)``.
    """

    def __init__(self, declarations: Sequence[str], *, old: Sequence[str] = (), **attributes: Any) -> None:
        super().__init__(declarations, **attributes)
        self.old = list(old)
        self._by_old_name = f"{self.name} by an old name"

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Add the old names as a separate option, to detect that both are given."""
        super().add_to_parser(parser, ctx)
        if not self.old:
            return
        other = copy.copy(self)
        other.opts, other.name = self.old, self._by_old_name
        click.Option.add_to_parser(other, parser, ctx)

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """Raises UsageError if a new and an old name are given."""
        if self._by_old_name in opts:
            if self.name in opts:
                new = option_label(self)
                raise click.UsageError(f"{new} was called {self.old[0]} before; give {new} alone", ctx)
            opts = {**opts, str(self.name): opts[self._by_old_name]}
        return super().handle_parse_result(ctx, opts, args)


def option_label(param: click.Parameter) -> str:
    """The longest name of an option, for messages."""
    return max(param.opts, key=len)


def is_given(ctx: click.Context, name: str) -> bool:
    """Whether the user gave the parameter ``name`` a value, instead of leaving its default."""
    source = ctx.get_parameter_source(name)
    return source is not None and source is not ParameterSource.DEFAULT


def gathered(name: str, kind: type[Any]) -> Callable[[Command], Command]:
    """Pass the options that are fields of the dataclass ``kind`` to the command as one argument ``name``.

    Put this decorator between the options and the command.
    """
    names = [field.name for field in dataclasses.fields(kind)]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_one(*args: Any, **given: Any) -> Any:
            value = kind(**{field: given.pop(field) for field in names})
            return command(*args, **{name: value}, **given)

        return cast("Command", with_one)

    return decorate


@dataclass(frozen=True)
class OnlyWith:
    """Options, by parameter name, that have an effect only if ``holds`` is true of the values of all parameters.

    ``remedy`` names what to give with them, e.g. "--full", or which values they need.
    """

    remedy: str
    options: Sequence[str]
    holds: Callable[[Mapping[str, Any]], object]

    def refuse_idle(self, ctx: click.Context) -> None:
        """Raises UsageError for the first option that was given and has no effect; names the file if it comes from a file."""
        idle = [param for param in ctx.command.params if param.name in self.options and is_given(ctx, param.name)]
        if idle and not self.holds(ctx.params):
            label, source = option_label(idle[0]), ctx.get_parameter_source(str(idle[0].name))
            where = f"{config_files.named(ctx)}: " if source is ParameterSource.DEFAULT_MAP else ""
            raise click.UsageError(
                f"{where}{label} has no effect without {self.remedy}; give that as well, or leave {label} out", ctx
            )


def _help_all(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        ctx.meta[ALL_OPTIONS] = True
        echo(ctx.get_help())
        ctx.exit()


class CheckedCommand(click.Command):
    """A command that groups its options under headings, reads them from a file, and refuses options that have no effect.

    ``shown`` names the parameters whose options ``--help`` lists, by default all. ``settled`` takes the values of all
    parameters and returns those that the recipe fills, for ``--print-config``.
    """

    def __init__(
        self,
        *args: Any,
        only_with: Sequence[OnlyWith] = (),
        shown: str = "",
        settled: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda values: {},
        **attributes: Any,
    ) -> None:
        from atom_plugin.cli.options import PATH  # which is made of what this module has

        super().__init__(*args, **attributes)
        self.only_with, self.shown, self.settled = only_with, shown.split(), settled
        self.params += [
            click.Option(
                ["--config"],
                metavar="FILE",
                type=PATH,
                expose_value=False,
                help="Read options from a TOML file or from a set's file; options on the command line have priority.",
            ),
            click.Option(
                ["--print-config"],
                is_flag=True,
                expose_value=False,
                help="Print the options of this run as TOML for --config, and exit.",
            ),
            click.Option(
                ["--help-all"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_help_all,
                help="Show all options and exit.",
            ),
        ]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As in click, but ``--config`` gives values for options that are left out. Raises UsageError for a wrong value."""
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        try:
            words = dict(self.make_parser(ctx).parse_args(list(args))[0])
        except click.NoSuchOption as error:
            see = f"{ctx.command_path} --help-all lists the options"
            raise click.UsageError(unknown("option", error.option_name, self._labels(ctx), see=see), ctx) from None
        ctx.meta[_PRINT] = bool(words.get("print_config"))
        if "config" in words and not {"help", "help_all"} & words.keys():
            ctx.default_map = config_files.read(ctx, words["config"], given=words)
        ctx.meta[_WORDS] = {**(ctx.default_map or {}), **words}
        return super().parse_args(ctx, args)

    def _labels(self, ctx: click.Context) -> list[str]:
        return [name for param in self.get_params(ctx) for name in param.opts if name.startswith("--")]

    def invoke(self, ctx: click.Context) -> Any:
        """As in click, after the checks. A command with ``--quiet`` prints its phases unless it is given."""
        for rule in self.only_with:
            rule.refuse_idle(ctx)
        if ctx.params.get("quiet") is False:
            ctx.with_resource(phases_shown())
        if ctx.meta[_PRINT]:
            idle = {name for rule in self.only_with if not rule.holds(ctx.params) for name in rule.options}
            echo(config_files.text(ctx, ctx.meta[_WORDS], self.settled(ctx.params), idle))
            return None
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As in click, one section per heading; the last line says how many options are hidden."""
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in HEADINGS}
        more = 0
        for option in self.get_params(ctx):
            if not isinstance(option, click.Option) or (record := option.get_help_record(ctx)) is None:
                continue
            if not self.shown or ctx.meta.get(ALL_OPTIONS) or option.name in self.shown or heading(option) == OTHER:
                sections[heading(option)].append(record)
            else:
                more += 1
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
        if more:
            formatter.write_paragraph()
            formatter.write_text(f"{more} more options: {ctx.command_path} --help-all")

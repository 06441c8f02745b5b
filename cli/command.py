"""What commands are made of: options in bundles and under headings, by a former name, or of effect beside others alone."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import click

from atom_plugin.cli.terminal import phases_shown

Command = TypeVar("Command", bound=Callable[..., Any])


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


def is_given(ctx: click.Context, name: str) -> bool:
    """Whether the user chose the parameter ``name``, rather than leaving its default."""
    source = ctx.get_parameter_source(name)
    return source is not None and source is not click.core.ParameterSource.DEFAULT


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


@dataclass(frozen=True)
class OnlyWith:
    """Options, by their parameters' names, that have an effect only where ``holds`` says so of the values of all parameters.

    ``remedy`` says what to give with them: "--full", or how else the values must be.
    """

    remedy: str
    options: Sequence[str]
    holds: Callable[[Mapping[str, Any]], object]

    def refuse_idle(self, ctx: click.Context) -> None:
        """Raises UsageError for the first that was given and has no effect."""
        idle = [param for param in ctx.command.params if param.name in self.options and is_given(ctx, param.name)]
        if idle and not self.holds(ctx.params):
            label = option_label(idle[0])
            raise click.UsageError(
                f"{label} has no effect without {self.remedy}; give that as well, or leave {label} out", ctx
            )


class CheckedCommand(click.Command):
    """A command that refuses options without effect before it begins."""

    def __init__(self, *args: Any, only_with: Sequence[OnlyWith] = (), **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.only_with = only_with

    def invoke(self, ctx: click.Context) -> Any:
        """As click does it, after that check; a command that may be quiet says what goes on where it is not."""
        for rule in self.only_with:
            rule.refuse_idle(ctx)
        if ctx.params.get("quiet") is False:
            ctx.with_resource(phases_shown())
        return super().invoke(ctx)


class SectionedCommand(CheckedCommand):
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

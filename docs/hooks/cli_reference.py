"""The command-line reference: when the site is built, docs/cli.md gets what each command's ``--help-all`` says, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from atom_plugin.cli.command import ALL_OPTIONS
from atom_plugin.cli.main import atom_cli


class MarkdownFormatter(click.HelpFormatter):
    """Takes what a command writes into its help, whatever the command's class: options become tables under their headings."""

    _section = ""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """The usage line as a block of code."""
        self.write(f"```text\n{prog} {args}\n```\n\n")

    def write_text(self, text: str) -> None:
        """Paragraphs; one that click is told not to wrap (it begins with a backspace) is a block of code."""
        for paragraph in text.split("\n\n"):
            body = paragraph.replace("\b", "").strip("\n")
            self.write(f"```text\n{body}\n```\n\n" if "\b" in paragraph else f"{_escaped(body)}\n\n")

    def write_dl(self, rows: Iterable[tuple[str, str]], *_: Any, **__: Any) -> None:
        """A table of two columns under the section's name."""
        lines = [f"| `{term}` | {_escaped(' '.join(text.split()))} |" for term, text in rows]
        self.write("\n".join([f"| {self._section} | |", "|---|---|", *lines]) + "\n\n")

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """No heading: equal ones under every command would fill the table of contents."""
        self._section = name
        yield


def _escaped(text: str) -> str:
    """What Markdown would take for marks as it stands; words between backticks are code there as well."""
    return re.sub(r"`[^`]+`|[\\`*_{}\[\]<>|#]", lambda found: found[0] if found[0][1:] else f"&#{ord(found[0])};", text)


def _chapters(name: str, command: click.Command, parent: click.Context | None = None, level: int = 2) -> Iterator[str]:
    """A command, and those below it."""
    context = command.context_class(command, info_name=name, parent=parent, **command.context_settings)
    context.meta[ALL_OPTIONS] = True
    formatter = MarkdownFormatter()
    command.format_help(context, formatter)
    yield f"{'#' * level} {context.command_path}\n\n{formatter.getvalue()}"
    for below in command.list_commands(context) if isinstance(command, click.Group) else ():
        yield from _chapters(below, command.get_command(context, below), context, min(level + 1, 3))


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for each page: docs/cli.md has the mark."""
    return re.sub("<!-- commands -->", lambda _: "\n".join(_chapters("atom-cli", atom_cli)), markdown)

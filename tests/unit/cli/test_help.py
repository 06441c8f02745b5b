"""Help: the same headings everywhere, the options that matter first, and where the others are."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest
from commands import run

from atom_plugin.cli.command import CheckedCommand
from atom_plugin.cli.headings import HEADINGS, OTHER, heading
from atom_plugin.cli.main import atom_cli


def commands(
    group: click.Group = atom_cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands())


def labels(text: str) -> list[str]:
    return re.findall(r"^  (?:-\w, )?(--[\w-]+)", text, re.M)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_shows_a_dozen_options_and_says_how_many_more_there_are(
    capsys: pytest.CaptureFixture[str], path: tuple[str, ...]
) -> None:
    short, whole = (run(capsys, *path, flag) for flag in ("--help", "--help-all"))
    titles = re.findall(r"^([A-Z].*):$", short, re.M)
    assert titles[-1] == OTHER and titles == [title for title in HEADINGS if title in titles]
    more = len(labels(whole)) - len(labels(short))
    last = short.splitlines()[-1]
    assert last == f"{more} more options: atom-cli {' '.join(path)} --help-all" if more else "--help" in last
    assert len(labels(short)) <= 14 + len(("--config", "--print-config", "--help-all", "--help"))
    assert "more options" not in whole
    assert set(labels(short)) < set(labels(whole)) or not more


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_stands_under_a_heading_of_work_and_those_that_are_shown_exist(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    assert isinstance(command, CheckedCommand)
    assert set(command.shown) <= {option.name for option in command.params}
    homeless = {
        option.name for option in command.params if isinstance(option, click.Option) and heading(option) == OTHER
    }
    assert homeless == {"config", "print_config", "help_all"}

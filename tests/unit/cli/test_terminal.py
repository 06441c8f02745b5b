"""All that commands print passes one border, where it is escaped."""

from __future__ import annotations

import ast
import logging
from pathlib import Path

import click
import pytest

from atom_plugin.cli.command import CheckedCommand
from atom_plugin.cli.options import quiet_option
from atom_plugin.cli.terminal import echo, messages_shown
from atom_plugin.runtime.progress import phase

CLI = Path(__file__).parents[3] / "cli"
LOGGER = logging.getLogger("atom_plugin")


def test_nothing_is_printed_past_the_border() -> None:
    for path in sorted(CLI.glob("*.py")):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        names = {ast.unparse(call) for call in calls}
        assert path.name == "terminal.py" or not names & {"click.echo", "click.secho", "print", "sys.stdout.write"}, (
            path
        )


def test_what_is_printed_is_escaped_but_for_line_breaks(capsys: pytest.CaptureFixture[str]) -> None:
    echo("a\x1b[31m\nb\r")
    echo(Path("c\x07"), err=True)
    assert capsys.readouterr() == ("a\\x1b[31m\nb\\r\n", "c\\x07\n")


def test_messages_are_lines_of_stderr_and_phases_those_of_the_first_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command(cls=CheckedCommand)
    @quiet_option
    def work(quiet: bool) -> None:
        with phase("reading \x1b[2J"):
            LOGGER.warning("a class is called %s", "a\nb")

    def told(*arguments: str) -> str:
        with messages_shown():
            work.main(list(arguments), standalone_mode=False)
        return capsys.readouterr().err

    assert told() == "reading \\x1b[2J\na class is called a\\nb\n"
    assert told("-q") == "a class is called a\\nb\n", "and not still shown"
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert told() == "a class is called a\\nb\n"

"""Commands run as a user would: what tests of the command line share."""

from typing import Any

import pytest

from atom_plugin.cli.main import main


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """The stdout of `atom-cli` with ``arguments``, which must succeed and say nothing else."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, ""), captured.err
    return captured.out

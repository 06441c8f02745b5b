"""Every example runs and does what it says."""

from __future__ import annotations

import runpy
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_atom_works_in_a_plain_loop_on_a_foreign_network(capsys):
    first, last = runpy.run_path(str(EXAMPLES / "plain_loop.py"))["main"](iterations=60)
    assert last < 0.8 * first
    assert "loss" in capsys.readouterr().out


def test_every_example_has_a_test():
    assert [path.name for path in EXAMPLES.glob("*.py")] == ["plain_loop.py"]

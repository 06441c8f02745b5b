"""`consume replay` in several processes: its runs are dealt among them, and give what one process gives."""

from __future__ import annotations

import json
import os
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from groups import in_processes

from atom_plugin.cli.main import main

pytest.importorskip("avalanche")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes as POSIX has them")
TINY = (
    *("--width", "8", "--epochs", "1", "--iterations", "2", "--real-batch", "4", "--steps", "2", "--orders", "1"),
    *("--precision", "float32", "--finetune-steps", "2"),
)


def replay(folder: Path, *more: str) -> tuple[int, str, str]:
    os.chdir(folder)
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as errors:
        code = main(
            ["consume", "replay", "--ipc", "2", *TINY, "--networks", "2", "--quiet", "-o", "a", "--json", *more]
        )
    return code, out.getvalue(), errors.getvalue()


def rows(record: dict) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in record["results"]]


def test_two_processes_share_the_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    policies = ("--policy", "random", "--policy", "atom", "--policy", "herding")
    both, one = tmp_path / "both", tmp_path / "one"
    both.mkdir()
    one.mkdir()
    (code, out, errors), (other_code, nothing, other_errors) = in_processes(2, replay, both, *policies)
    assert (code, other_code) == (0, 0), (errors, other_errors)
    assert (nothing, errors, other_errors) == ("", "", "")
    _, expected, _ = replay(one, *policies)
    assert rows(json.loads(out)) == rows(json.loads(expected))
    assert (both / "a.jsonl").read_bytes().count(b"\n") == 6

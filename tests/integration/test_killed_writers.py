"""Exports and replay memories, killed at any moment: under the final name is the old content or the new, whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "killed_writers.py"
WRITERS = ("folder", "huggingface", "mtt", "dd-ranking", "dc-bench", "replay")
HOW = ("new", "force", "aside")

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")


def count(writer: str, how: str, kills: int, folder: Path) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), writer, how, str(kills), str(folder)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(("writer", "how"), [("folder", "force"), ("mtt", "aside"), ("replay", "force")])
def test_killed_a_few_times(tmp_path, writer, how):
    found = count(writer, how, 4, tmp_path)
    assert found.get("old", 0) + found.get("new", 0) == found["killed"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("writer", WRITERS)
def test_killed_forty_times(tmp_path, writer, how):
    found = count(writer, how, 40, tmp_path)
    assert found.get("old", 0) + found.get("new", 0) == found["killed"] == 40
    print(writer, how, found)  # noqa: T201 (figures, with -s)

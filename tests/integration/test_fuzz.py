"""A few random cases of every kind of damage; `PYTHONPATH=tests python -m fuzzing --cases 10000` runs many."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzzing.options import base_of, commands
from fuzzing.runner import ALL, Found, run_case, sound_files

_CASES = 3


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    with sound_files() as folder:
        yield folder


@pytest.mark.parametrize("kind", ALL)
def test_damage_ends_in_a_line_that_says_so(base: Path, kind: str) -> None:
    share = 10 if kind == "options" else _CASES
    faults = [found for seed in range(share) if (found := run_case(kind, seed, base)).fault]
    assert not faults, "\n".join(map(str, faults))


def test_every_command_has_a_sound_form(tmp_path: Path) -> None:
    assert [path for path, _ in commands() if not base_of(path, tmp_path)] == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, ""),
        ({"code": 0, "error": ""}, ""),
        ({"error": "Error: internal error: KeyError: 'a'"}, "internal error"),
        ({"error": "Traceback (most recent call last)"}, "internal error"),
        ({"code": 3}, "exit code 3"),
        ({"error": " "}, "fails without a word"),
        ({"seconds": 11.0}, "takes 11 s"),
        ({"peak": 3 * 10**9}, "takes 3.0 GB"),
    ],
)
def test_what_counts_as_a_fault(changes: dict[str, object], fault: str) -> None:
    found = {"kind": "log", "seed": 1, "arguments": [], "code": 1, "error": "Error: no", "seconds": 0.1, "peak": 10**9}
    assert Found(**{**found, **changes}).fault == fault

"""Seeds joined by commas, and the files of their sets."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from atom_plugin.cli.seeds import Seeds, output_of


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("0-4", (0, 1, 2, 3, 4)),
        ("0,2,5", (0, 2, 5)),
        (" 7 , 1 - 2", (7, 1, 2)),
        ("3", (3,)),
        (str(2**64 - 1), (2**64 - 1,)),
    ],
)
def test_seeds_are_named_one_by_one_or_as_spans(text: str, seeds: tuple[int, ...]) -> None:
    assert Seeds().convert(text, None, None) == seeds


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must be seeds such as 0-4 or 0,2,5, not ''"),
        ("1,,2", "must be seeds"),
        ("a", "must be seeds"),
        ("-1", "must be seeds"),
        ("0-", "must be seeds"),
        ("4-0", "from the lower to the higher, not '4-0'"),
        ("0-1000", "at most 1,000 seeds"),
        ("0-998,2000,3000", "at most 1,000 seeds"),
        ("0-9999999999999", "at most 1,000 seeds"),
        ("9" * 5000, "at most"),
        ("0-2,1", "names 1 twice"),
    ],
)
def test_what_is_no_seed_is_refused_and_so_are_too_many(text: str, words: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        Seeds().convert(text, None, None)
    assert words in caught.value.format_message()


def test_files_of_a_sweep_are_named_as_those_of_single_runs() -> None:
    parts = ("digits", "atom", "ipc1")
    assert (
        output_of(None, parts, 0, swept=True) == output_of(None, parts, 0, swept=False) == Path("digits-atom-ipc1.h5")
    )
    assert output_of(None, parts, 3, swept=True) == Path("digits-atom-ipc1-seed3.h5")
    assert (
        output_of(Path("a/b.h5"), parts, 3, swept=False)
        == output_of(Path("a/b.h5"), parts, 0, swept=True)
        == Path("a/b.h5")
    )
    assert output_of(Path("a/b.h5"), parts, 3, swept=True) == Path("a/b-seed3.h5")

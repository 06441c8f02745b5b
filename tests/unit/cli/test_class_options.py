"""Classes are chosen by name or by id, and never the one taken for the other."""

from __future__ import annotations

import pytest

from atom_plugin.cli.class_options import ChosenClasses
from atom_plugin.errors import ConfigError

NAMES = ("cat", "a,b", "0", "same", "same", "x")


def by_name(*given: str, names: tuple[str, ...] = NAMES) -> list[int]:
    return ChosenClasses(names=given, ids=()).labels(names)


def by_id(*given: str) -> list[int]:
    return ChosenClasses(names=(), ids=given).labels(NAMES)


def test_names_may_hold_commas_be_numbers_and_be_composed_otherwise() -> None:
    assert by_name("x, cat") == [5, 0]
    assert by_name("a,b", "cat") == [1, 0]
    assert by_name("0") == [2]
    assert by_name("caf\u00e9", names=("tea", "cafe\u0301")) == [1]  # as macOS spells it


def test_ids_are_whole_numbers_in_the_order_given() -> None:
    assert by_id("4, 3", "0") == [4, 3, 0]
    for bad in ("-1", "6", "\u0663", "1.0", "", "cat", "1" * 5000):
        with pytest.raises(ConfigError, match="--class-ids must be whole numbers from 0 to 5"):
            by_id(bad)


def test_what_is_no_class_or_two_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'same' stands for the ids \[3, 4\]; choose with --class-ids"):
        by_name("same")
    with pytest.raises(ConfigError, match=r"no class is called '5'.*ids are given with --class-ids"):
        by_name("5")
    with pytest.raises(ConfigError, match="no class is called 'dog'"):
        by_name("dog")
    for again in (lambda: by_name("x,cat,x"), lambda: by_id("5,5")):
        with pytest.raises(ConfigError, match=r"'x' \(id 5\) is named twice"):
            again()

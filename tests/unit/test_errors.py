"""Parts of messages that many places compose."""

from __future__ import annotations

import pytest

from atom_plugin.errors import listed, shape_text, unknown


@pytest.mark.parametrize(
    ("name", "known", "see", "message"),
    [
        ("atm", ("atom", "dm"), "", "no thing is called 'atm'; did you mean 'atom'? known: atom, dm"),
        ("xyzzy", ("atom", "dm"), "", "no thing is called 'xyzzy'; known: atom, dm"),
        ("xyzzy", (), "", "no thing is called 'xyzzy'; known: none"),
        ("atm", ("atom", "dm"), "--list shows all", "no thing is called 'atm'; did you mean 'atom'? --list shows all"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_and_with_all(name, known, see, message):
    assert unknown("thing", name, known, see=see) == message
    assert unknown("thing", name, iter(known), see=see) == message


def test_many_known_names_are_cut_short():
    assert unknown("class", "?", map(str, range(100))).endswith("28, 29, … (100 in all)")


def test_listed():
    assert listed([]) == "none"
    assert listed(["cat", 2], most=2) == "cat, 2"
    assert listed(iter("abc"), most=2) == "a, b, … (3 in all)"


def test_shape_text():
    assert shape_text((3, 32, 64)) == "3x32x64"

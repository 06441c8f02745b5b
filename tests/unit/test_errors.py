"""Parts of messages that many places compose."""

from __future__ import annotations

import pickle
import time

import pytest

from atom_plugin.errors import ConfigError, Interrupted, listed, require, shape_text, shown, unknown


@pytest.mark.parametrize(
    ("name", "known", "see", "message"),
    [
        ("atm", ("atom", "dm"), "", "no thing is called 'atm'; did you mean 'atom'? known: atom, dm"),
        (
            "--lr",
            ("--help", "--image-lr"),
            "",
            "no thing is called '--lr'; did you mean '--image-lr'? known: --help, --image-lr",
        ),
        ("timm/b", ("a", "timm:b"), "", "no thing is called 'timm/b'; did you mean 'timm:b'? known: a, timm:b"),
        (
            "lr",
            ("a-lr", "lrs", "lr_b"),
            "",
            "no thing is called 'lr'; did you mean 'a-lr' or 'lr_b'? known: a-lr, lrs, lr_b",
        ),
        (
            "--iter",
            ("--tracker", "--iterations"),
            "see",
            "no thing is called '--iter'; did you mean '--iterations'? see",
        ),
        ("atom,dm", ("atom", "dm"), "", "no thing is called 'atom,dm'; give one at a time; known: atom, dm"),
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


def test_a_name_that_nobody_types_has_no_nearest_and_takes_no_time():
    known = [f"{'x' * 5000}{number}" for number in range(2000)]
    start = time.perf_counter()
    assert "did you mean" not in unknown("class", "x" * 5000, known, see="see --list")
    assert "did you mean 'a'" in unknown("class", "aa", [*known, "a"], see="see --list")
    assert time.perf_counter() - start < 2


def test_listed():
    assert listed([]) == "none"
    assert listed(["cat", 2], most=2) == "cat, 2"
    assert listed(iter("abc"), most=2) == "a, b, … (3 in all)"


def test_shown_is_short_whatever_the_value():
    assert shown("a") == "'a'"
    assert shown(2**64) == str(2**64)
    assert shown("x" * 100) == f"'{'x' * 79}…"
    assert shown(10**5000) == "a number of 16610 bits"


def test_an_interruption_keeps_its_signal_in_another_process():
    found = pickle.loads(pickle.dumps(Interrupted("Stopped", 15)))
    assert (type(found), str(found), found.signum) == (Interrupted, "Stopped", 15)


def test_a_value_of_another_type_is_named():
    require("data", 3, int)
    with pytest.raises(ConfigError, match="data must be a int, not NoneType; give one"):
        require("data", None, int)


def test_shape_text():
    assert shape_text((3, 32, 64)) == "3x32x64"

"""Text that every file can hold; what a terminal would obey is escaped, and words of every script stay."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from atom_plugin.errors import ConfigError
from atom_plugin.runtime.text import flaw, printable, require_text


@pytest.mark.parametrize("text", ["", "cat", "żółw", "\x1b[31m", "😀", "a\nb"])
def test_sound_text(text):
    assert flaw(text) == ""
    require_text("name", text)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a\0", r"name cannot be 'a\\x00': it contains a zero character; rename it"),
        ("\ud800", r"name cannot be '\\ud800': it is not Unicode text"),
        (None, "name must be a text, not None"),
        (b"cat", "name must be a text, not b'cat'"),
    ],
)
def test_text_that_no_file_can_hold(value, words):
    with pytest.raises(ConfigError, match=words):
        require_text("name", value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("a\rb\nc\td\0", r"a\rb\nc\td\x00"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("\u202egnp.exe\u2066", r"\u202egnp.exe\u2066"),
        ("\u2028\u2029\ufeff\u200b", r"\u2028\u2029\ufeff\u200b"),
        ("\ud800 \udcff", r"\ud800 \udcff"),
        (b"bytes", "b'bytes'"),
    ],
)
def test_what_would_not_print_is_escaped(text: object, shown: str) -> None:
    assert printable(text) == shown


WORDS = (
    *("\u017c\u00f3\u0142w", "\u732b", "a b/c\\n"),
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian, with a joiner
    "\U0001f469\u200d\U0001f52c",  # an emoji of two
)


@pytest.mark.parametrize("text", WORDS)
def test_words_stay(text: str) -> None:
    assert printable(text) == text


def test_line_breaks_stay_where_they_are_the_callers() -> None:
    assert printable("a\nb\r\x1b", lines=True) == "a\nb\\r\\x1b"


def test_no_control_character_passes() -> None:
    passed = printable("".join(map(chr, range(sys.maxunicode + 1))))
    kinds = {unicodedata.category(character) for character in passed} - {"Cf"}
    assert not {kind for kind in kinds if kind[0] == "C" or kind in ("Zl", "Zp")}
    assert {character for character in passed if unicodedata.category(character) == "Cf"} == {"\u200c", "\u200d"}

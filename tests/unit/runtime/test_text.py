"""Text that every file can hold."""

from __future__ import annotations

import pytest

from atom_plugin.errors import ConfigError
from atom_plugin.runtime.text import flaw, require_text


@pytest.mark.parametrize("text", ["", "cat", "żółw", "\x1b[31m", "😀", "a\nb"])
def test_sound_text(text):
    assert flaw(text) == ""
    require_text("name", text)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a\0", r"name cannot be 'a\\x00': it holds a zero character; rename it"),
        ("\ud800", r"name cannot be '\\ud800': it is not Unicode text"),
        (None, "name must be a text, not None"),
        (b"cat", "name must be a text, not b'cat'"),
    ],
)
def test_text_that_no_file_can_hold(value, words):
    with pytest.raises(ConfigError, match=words):
        require_text("name", value)

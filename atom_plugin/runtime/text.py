"""Text that every file of ours can hold, and text from files on its way to people.

A file holds Unicode, and no zero character, at which HDF5 and file systems end a text. What a terminal would obey, or nobody
could see, is escaped before it is shown.
"""

from __future__ import annotations

from atom_plugin.errors import ConfigError, shown

_JOINERS = "\u200c\u200d"  # of scripts and of emoji; they print nothing and are part of words


def flaw(text: str) -> str:
    """Why no file can hold ``text``, in words; empty for text that is sound."""
    if "\0" in text:
        return "it holds a zero character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "it is not Unicode text (it holds a lone surrogate)"
    return ""


def require_text(name: str, value: object) -> None:
    """Raise ConfigError unless ``value``, called ``name``, is text that a file can hold."""
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be a text, not {shown(value)}")
    if why := flaw(value):
        raise ConfigError(f"{name} cannot be {shown(value)}: {why}; rename it")


def printable(text: object, *, lines: bool = False) -> str:
    """``text`` with control characters, bidirectional marks, surrogates and the like escaped: ``\\x1b`` for an escape.

    Line breaks too, unless ``lines``. Any text from a file passes through here before it is shown.
    """
    return "".join(
        character
        if character.isprintable() or character in _JOINERS or (lines and character == "\n")
        else character.encode("unicode_escape", "surrogatepass").decode()
        for character in str(text)
    )

"""Check that files can store a text, and escape text from files before it is shown.

A file stores Unicode without zero characters, at which HDF5 and file systems end a text. Characters that control a terminal, or
are invisible, are escaped before the text is shown.
"""

from __future__ import annotations

from atom_plugin.errors import ConfigError, shown

_JOINERS = "\u200c\u200d"  # of scripts and of emoji; they print nothing and are part of words


def flaw(text: str) -> str:
    """Why no file can store ``text``; empty for a valid text."""
    if "\0" in text:
        return "it contains a zero character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "it is not Unicode text (it contains a lone surrogate)"
    return ""


def require_text(name: str, value: object) -> None:
    """Raise ConfigError unless ``value``, called ``name``, is text that a file can store."""
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be a text, not {shown(value)}")
    if why := flaw(value):
        raise ConfigError(f"{name} cannot be {shown(value)}: {why}; rename it")


def printable(text: object, *, lines: bool = False) -> str:
    """``text`` with control characters, bidirectional marks, surrogates and similar characters escaped: ``\\x1b`` for an
    escape.

    Line breaks are escaped too, unless ``lines``. Pass any text from a file through this function before showing it.
    """
    return "".join(
        character
        if character.isprintable() or character in _JOINERS or (lines and character == "\n")
        else character.encode("unicode_escape", "surrogatepass").decode()
        for character in str(text)
    )

"""Text that every file of ours can hold: Unicode, and no zero character, at which HDF5 and file systems end a text."""

from __future__ import annotations

from atom_plugin.errors import ConfigError, shown


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

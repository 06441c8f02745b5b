"""The kinds of errors of this package. Each message says what was found, what was expected and what to do.

The functions compose parts of messages that many places need.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from types import UnionType
from typing import get_args

_COMPARED, _TYPED, _NEAREST, _BEGINNING = 10_000, 100, 3, 4


class AtomError(Exception):
    """Base of every error this package raises on purpose."""


def unknown(kind: str, name: object, known: Iterable[str], *, see: str = "") -> str:
    """``"no matcher is called 'atm'; did you mean 'atom'? known: atom, dm"``.

    ``see`` replaces the list of known names if that would be long or incomplete.
    """
    names = list(known)
    # Comparing takes the product of two lengths for each name; what nobody types has no nearest.
    short = [each for each in names[:_COMPARED] if len(each) <= _TYPED]
    hint = ""
    if isinstance(name, str) and len(name) <= _TYPED:
        several = name.split(",")
        near = nearest(name, short)
        if len(several) > 1 and set(several) <= set(short):
            hint = "give one at a time; "
        elif near:
            hint = f"did you mean {' or '.join(map(repr, near))}? "
    return f"no {kind} is called {shown(name)}; {hint}{see or f'known: {listed(names, most=30)}'}"


def nearest(typed: str, names: Sequence[str]) -> list[str]:
    """Up to three of ``names`` that ``typed`` is a word of; else the shortest that begins with it, or the most similar one."""
    if words := [each for each in names if _is_word_of(typed, each)]:
        return words[:_NEAREST]
    longer = [each for each in names if len(typed) >= _BEGINNING and each.startswith(typed)]
    return [min(longer, key=len)] if longer else difflib.get_close_matches(typed, names, n=1, cutoff=0.5)


def _is_word_of(typed: str, name: str) -> bool:
    """Whether the words of ``typed`` are some of those of ``name``: "--lr" of "--image-lr", "vgg16" of "timm:vgg16"."""
    words = typed.strip("-").replace("/", ":")
    return bool(words) and re.search(rf"(?<![^\W_]){re.escape(words)}(?![^\W_])", name) is not None


def listed(items: Iterable[object], *, most: int = 10) -> str:
    """``"cat, dog, … (12 in all)"``: the first ``most`` items in a line; "none" if there are none."""
    texts = list(map(str, items))
    more = f", … ({len(texts)} in all)" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more or "none"


def shown(value: object) -> str:
    """The repr of ``value``, cut after 80 characters."""
    # Python converts no whole number of thousands of digits.
    text = f"a number of {value.bit_length()} bits" if isinstance(value, int) and abs(value) >> 256 else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def shape_text(shape: Iterable[int]) -> str:
    """``"3x32x32"`` for (C, H, W)."""
    return "x".join(map(str, shape))


class ConfigError(AtomError):
    """Options that are impossible or do not fit each other (the command line exits with 2)."""


def require(name: str, value: object, kind: type | UnionType) -> None:
    """Raise ConfigError unless ``value``, an argument called ``name``, is a ``kind``."""
    if not isinstance(value, kind):
        word = kind.__name__ if isinstance(kind, type) else " or ".join(each.__name__ for each in get_args(kind))
        raise ConfigError(f"{name} must be a {word}, not {type(value).__name__}; give one")


def require_methods(name: str, value: object, *methods: str, such_as: str) -> None:
    """Raise ConfigError unless ``value``, an argument called ``name``, is an object that has all of ``methods``."""
    # A class has them as well, but nothing to call them on.
    if isinstance(value, type) or not all(hasattr(value, method) for method in methods):
        raise ConfigError(f"{name} must be an object such as {such_as}, not {shown(value)}; make one")


class ModelError(ConfigError):
    """A network that is unknown, or that cannot take the images."""


class SourceError(AtomError):
    """Real images that are missing, unreadable, or too few."""


class StoreError(AtomError):
    """A synthetic set's file that cannot be read, is damaged, or must not be overwritten."""


class PluginError(AtomError):
    """A registered name that is unknown, claimed twice, or fails to load."""


class DivergenceError(AtomError):
    """A loss or an image that is no longer finite."""


class ProcessError(AtomError):
    """A process of a run that lost its connection to the others: one of them ended, or is stuck."""


class Interrupted(AtomError):
    """A run that a signal stopped after its state was saved (the command line exits with 128 + ``signum``)."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum

    def __reduce__(self) -> tuple[type[Interrupted], tuple[str, int]]:
        return type(self), (str(self), self.signum)  # what pickle would call has no signal


class MissingExtraError(AtomError, ImportError):
    """A library that some features need, and that is not installed or is broken."""

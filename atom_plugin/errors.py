"""What can go wrong, in a few kinds. Each message says what was found, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AtomError(Exception):
    """Base of every error this package raises on purpose."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"did you mean 'atom'? "`` where one of ``known`` is like ``name``, else nothing: a part of messages."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}? " if near else ""


class ConfigError(AtomError):
    """Options that are impossible or do not fit each other (the command line exits with 2)."""


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
    """A process of a run that lost the others: one of them ended, or is stuck."""


class Interrupted(AtomError):
    """A run that a signal stopped after its state was saved (the command line exits with 128 + ``signum``)."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


class MissingExtraError(AtomError, ImportError):
    """A library that only some features need, and that is not installed, or is broken."""

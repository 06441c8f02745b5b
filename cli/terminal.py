"""The border to the terminal: all that commands print passes here, and nothing in it commands the terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from atom_plugin.runtime import distributed
from atom_plugin.runtime.progress import phase
from atom_plugin.runtime.text import printable

_LOGGER = logging.getLogger("atom_plugin")


def echo(text: object, *, err: bool = False) -> None:
    """Print ``text``, with what would not print escaped; its line breaks are the caller's own."""
    click.echo(printable(text, lines=True), err=err)


class _Lines(logging.Handler):
    """Messages as lines on stderr; phases of the first process alone."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one."""
        if record.levelno >= logging.WARNING or distributed.launched_first():
            click.echo(printable(record.getMessage()), err=True)


@contextmanager
def messages_shown() -> Iterator[None]:
    """Within: the package's messages are printed, its warnings at least."""
    handler = _Lines()
    _LOGGER.addHandler(handler)
    try:
        yield
    finally:
        _LOGGER.removeHandler(handler)


@contextmanager
def phases_shown() -> Iterator[None]:
    """Within: what goes on is among them."""
    level = _LOGGER.level
    _LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        _LOGGER.setLevel(level)


def load_torch() -> None:
    """Import it now, with a line that says so: it takes seconds."""
    if "torch" not in sys.modules:
        with phase("loading torch"):
            import torch  # noqa: F401

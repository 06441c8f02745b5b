"""All output of commands to the terminal, with control characters escaped."""

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
    """Print ``text`` with unprintable characters escaped; line breaks are kept."""
    click.echo(printable(text, lines=True), err=err)


class _Lines(logging.Handler):
    """Write log messages as lines on stderr; messages on phases only from the first process."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one."""
        if record.levelno >= logging.WARNING or distributed.launched_first():
            click.echo(printable(record.getMessage()), err=True)


@contextmanager
def messages_shown() -> Iterator[None]:
    """Within: print the package's messages, from level WARNING."""
    handler = _Lines()
    _LOGGER.addHandler(handler)
    try:
        yield
    finally:
        _LOGGER.removeHandler(handler)


@contextmanager
def phases_shown() -> Iterator[None]:
    """Within: also print the messages on phases."""
    level = _LOGGER.level
    _LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        _LOGGER.setLevel(level)


def load_torch() -> None:
    """Import torch now, with a message, since it takes seconds."""
    if "torch" not in sys.modules:
        with phase("loading torch"):
            import torch  # noqa: F401

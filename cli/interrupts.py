"""Ctrl-C and SIGTERM as a request, which a long run answers between two steps, when its state is complete."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from atom_plugin.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_requests() -> Iterator[Callable[[], int]]:
    """Yields a function that returns the number of the signal that asked to stop, or 0.

    The first signal is noted; a second one has its usual effect at once.
    """
    noted = 0
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        noted = number
        _restore(before)

    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        yield lambda: noted
    finally:
        _restore(before)


@contextmanager
def explaining_how_to_resume(words: Callable[[], str]) -> Iterator[None]:
    """If a signal stops the work within, raise Interrupted with the message that ``words`` returns."""
    from atom_plugin.cli.main import Terminated

    try:
        yield
    except (KeyboardInterrupt, Terminated) as stop:
        number = signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM
        raise Interrupted(words(), number) from None


def _restore(before: Mapping[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler or signal.SIG_DFL)  # None: set outside Python

"""Progress on stderr: a line when a phase begins, and progress bars, or plain lines if there is no terminal.

Phases are messages of level INFO of the package's logger, so a user of the package decides whether they are shown.
"""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from types import TracebackType
from typing import Any

from atom_plugin.runtime.text import printable

_logger = logging.getLogger("atom_plugin")
_WORTH_TELLING = 1.0  # seconds that a phase took
_BETWEEN_LINES = 30.0  # seconds
_FIRST_LINE = 5.0


@contextmanager
def phase(words: str) -> Iterator[None]:
    """Log ``words`` at once, and the duration at the end if it is long."""
    _logger.info("%s", words)
    started = time.perf_counter()
    yield
    if (seconds := time.perf_counter() - started) >= _WORTH_TELLING:
        _logger.info("%s: %.1f s", words, seconds)


def progress_bar(total: int, *, unit: str, desc: str = "", initial: int = 0, hidden: bool = False, **looks: Any) -> Any:
    """A tqdm bar on a terminal, else :class:`ProgressLines`; ``looks`` are further arguments of tqdm."""
    if hidden or sys.stderr.isatty():
        from tqdm import tqdm

        return tqdm(total=total, unit=unit, desc=printable(desc), initial=initial, disable=hidden, **looks)
    return ProgressLines(total, unit=unit, desc=desc, initial=initial)


class ProgressLines:
    """Progress as lines of a log file: one after some seconds, then one each half minute, and one at the end.

    It has the methods of tqdm that this package calls.
    """

    def __init__(self, total: int, *, unit: str, desc: str = "", initial: int = 0) -> None:
        self.total, self.unit, self.desc, self.n = total, unit, desc, initial
        self._postfix = ""
        self._started = time.perf_counter()
        self._next = self._started + _FIRST_LINE
        self._told = initial

    def update(self, n: int = 1) -> None:
        """Add ``n`` finished items."""
        self.n += n
        if (now := time.perf_counter()) >= self._next:
            self._next = now + _BETWEEN_LINES
            self._tell()

    def set_description(self, desc: str) -> None:
        """Set the description."""
        self.desc = desc

    def set_postfix(self, *, refresh: bool = False, **values: Any) -> None:
        """Set the values after the counts."""
        self._postfix = ", ".join(f"{name} {value}" for name, value in values.items())

    def set_postfix_str(self, words: str) -> None:
        """Set the text after the counts."""
        self._postfix = words

    def close(self) -> None:
        """Write the last line, if anything was done since the previous one."""
        if self.n != self._told:
            self._tell()

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _tell(self) -> None:
        self._told = self.n
        seconds = time.perf_counter() - self._started
        behind = f", {self._postfix}" if self._postfix else ""
        before = f"{self.desc}: " if self.desc else ""
        line = f"{before}{self.n:,} of {self.total:,} {self.unit}s, {seconds:.0f} s{behind}"
        sys.stderr.write(printable(line) + "\n")
        sys.stderr.flush()


@contextmanager
def bars_of_terminals() -> Iterator[None]:
    """Within: progress bars of other libraries on stderr are drawn only on a terminal."""
    if sys.stderr.isatty():
        yield
        return
    with redirect_stderr(_WithoutBars(sys.stderr)):
        yield


class _WithoutBars(io.TextIOBase):
    """A stream that passes on lines, but not text that a carriage return overwrites."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write ``text``, unless it is a progress bar or the end of one."""
        if "\r" not in text and text.strip():
            self._stream.write(text if text.endswith("\n") else f"{text}\n")
        return len(text)

    def flush(self) -> None:
        """As the stream's flush."""
        self._stream.flush()

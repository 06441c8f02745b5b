"""The log of a run: one JSON line per iteration, in a file next to the set. Some lines also have an accuracy, in [0, 1]."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from atom_plugin.errors import StoreError, shown
from atom_plugin.runtime import bounded_json, jsonl
from atom_plugin.runtime.files import reason, write_bytes
from atom_plugin.runtime.renames import rename_new

_LINES = jsonl.LineFormat(name="the log of a run", key="iteration")


class RunLog:
    """Appends records to ``path``; the first one opens the file and keeps the records of ``earlier`` up to iteration ``after``.

    ``earlier`` is the log of the run's first part, ``path`` itself if None. A killed run may have logged iterations after its
    checkpoint, or half a line: those are removed. A run that fails before its first step leaves no log. Raises StoreError if
    the file cannot be written.
    """

    def __init__(self, path: Path, *, after: int = 0, earlier: Path | None = None) -> None:
        self.path = path
        self._earlier = earlier or path
        self._after = after
        self._file: IO[bytes] | None = None

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, *, iteration: int, **values: Any) -> None:
        """Append one record. Lines reach the file at once, so that you can follow a run."""
        try:
            if self._file is None:
                self._file = self._open()
            # One writer and many lines: the file stays open, and no line waits for the disk.
            self._file.write(jsonl.encode({"iteration": iteration, **values}))
            self._file.flush()
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written: {reason(error, self.path)}") from error

    def _open(self) -> IO[bytes]:
        held = read_log(self._earlier) if self._after else []
        kept = [record for record in held if record["iteration"] <= self._after]
        write_bytes(self.path, b"".join(map(jsonl.encode, kept)), force=True)
        return self.path.open("ab")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log; a missing log has none. Raises StoreError for lines of another kind."""
    return jsonl.read(path, _LINES, _record)


def is_log(path: Path) -> bool:
    """Whether the file is empty or begins like a log, with a record of an iteration and its loss."""
    try:
        with path.open("rb") as file:
            line = file.readline(1 << 16)
        record = bounded_json.parse(line or b'{"iteration": 1, "loss": 0}')
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and {"iteration", "loss"} <= record.keys()


def set_aside(path: Path) -> Path | None:
    """Rename an earlier run's log, with the first free number, and return the new name; None if there is no log.

    Raises StoreError if it cannot be renamed.
    """
    try:
        for number in itertools.count(1):
            target = path.with_name(f"{path.stem}-{number}{path.suffix}")
            if not os.path.lexists(path):
                break
            if not os.path.lexists(target):
                rename_new(path, target)
                return target
    except OSError as error:
        raise StoreError(f"{path}: cannot be renamed: {reason(error, path)}") from error
    return None


def _record(line: dict[str, Any]) -> dict[str, Any]:
    if type(line["iteration"]) is not int or line["iteration"] < 1:
        raise StoreError(
            f"found iteration {shown(line['iteration'])}, expected a whole number of 1 or more; remove the line"
        )
    for name in ("loss", "seconds", "accuracy"):
        if type(line.get(name, 0.0)) not in (int, float):
            raise StoreError(f"found {name} {shown(line[name])}, expected a number; remove the line")
    return line

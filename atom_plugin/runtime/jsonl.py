"""Files of JSON lines: results and logs to which a run appends objects, so that a stopped run can continue.

All files follow one rule. Every line of a file starts with the same key (and value), given by its :class:`LineFormat`, which
distinguishes the beginning of such a line from other text.

- Skipped, wherever it stands: a blank line, and a line that starts correctly but is not JSON. A kill or a full disk cut it
  short, and the next writer began a new line. (A process that writes at the same moment does not see the cut line yet; its own
  line then follows directly after the torn beginning, and is read.)
- An error that names the file, the line's number, what was found and what to do: every other line, JSON or not.

Lines are appended, in one write each, and never rewritten: several processes may append to one file at the same time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from atom_plugin.errors import AtomError, StoreError
from atom_plugin.runtime import bounded_json
from atom_plugin.runtime.files import append_line

Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True)
class LineFormat:
    """How the lines of one kind of file start: with ``key``, and ``value`` unless that is None.

    ``name`` is the name of such a file in messages. ``version`` is the highest "format_version" that this release reads, None
    for lines without a version.
    """

    name: str
    key: str = "format"
    value: str | None = None
    version: int | None = None

    @property
    def head(self) -> bytes:
        """The first bytes of every line, also of a torn one."""
        value = "" if self.value is None else json.dumps(self.value)
        return f"{{{json.dumps(self.key)}: {value}".encode()

    def check(self, record: Any) -> None:
        """Raise StoreError unless ``record``, any JSON value, is such a line, in a version that can be read."""
        found = record.get(self.key) if isinstance(record, dict) else None
        if found is None or self.value not in (None, found):
            expected = f"a line with {self.key}" if self.value is None else f"{self.key} {self.value!r}"
            # The two kinds of files lie side by side, and their names are easily confused.
            log = isinstance(record, dict) and {"iteration", "loss"} <= record.keys()
            what = "a line of a distillation's log" if log else f"{self.key} {found!r}"
            raise StoreError(f"found {what}, expected {expected}; name {self.name}")
        version = record.get("format_version")
        if self.version is not None and not (type(version) is int and 1 <= version <= self.version):
            raise StoreError(
                f"found format version {version!r}, this release reads {self.version}; update atom-plugin, or name another "
                "file"
            )


def encode(record: Mapping[str, Any]) -> bytes:
    """``record`` as one line. Raises ValueError for numbers that are not finite, which JSON cannot represent."""
    return json.dumps(record, allow_nan=False).encode() + b"\n"


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Append ``record`` to ``path`` in one write; it is on the disk when this returns. Raises StoreError."""
    append_line(path, encode(record))


def read(path: Path, lines: LineFormat, parse: Callable[[dict[str, Any]], Record]) -> list[Record]:
    """The results of ``parse`` for each record, in the order of the file; empty for a missing file.

    Raises StoreError, naming file and line, for a line that is not one of ``lines`` or that ``parse`` refuses with an
    AtomError, and if the file cannot be read.
    """
    try:
        if path.exists() and not path.is_file():
            raise StoreError(f"{path}: cannot be read: it is not a regular file; name {lines.name}")
        data = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}; name {lines.name}") from error
    records = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip() or (record := _loaded(line, lines, f"{path}, line {number}")) is None:
            continue
        try:
            lines.check(record)
            records.append(parse(record))
        except AtomError as error:
            raise StoreError(f"{path}, line {number}: {error}") from None
    return records


def _loaded(line: bytes, lines: LineFormat, where: str) -> Any:
    """The JSON value of ``line``; None for a torn beginning of one of ``lines``. Raises StoreError for other text."""
    # Text in JSON has its quotes escaped, so a head inside a line is that of a line behind a torn one.
    start = max(0, line.rfind(lines.head))
    torn = line[: start or None]
    try:
        value = bounded_json.parse(line)
    except bounded_json.OutOfBounds as error:
        raise StoreError(f"{where}: {error}; remove the line, or name {lines.name}") from None
    except ValueError as error:
        if not torn.startswith(lines.head[: len(torn)]):
            raise StoreError(f"{where}: is not JSON ({error}); remove the line, or name {lines.name}") from None
        return _loaded(line[start:], lines, where) if start else None
    return [] if value is None else value

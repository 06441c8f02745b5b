"""A file of JSON lines that grows as results come, so that a stopped run goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from atom_plugin.errors import StoreError
from atom_plugin.runtime import files

_HEAD = '{"table": '  # how every line of ours starts, a torn one too


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All records; what a kill left of a line is none. Raises StoreError for any other line that is no record."""
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
        except ValueError:
            if line.startswith(_HEAD[: len(line)]):
                continue
            raise StoreError(f"{path}, line {number}: is not JSON; remove the line") from None
        if not isinstance(record, dict) or "table" not in record:
            raise StoreError(f"{path}, line {number}: is no cell of a table; name a file that this script wrote")
        records.append(record)
    return records


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Add one record, whose first name is "table"; other processes may add theirs. Raises StoreError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {files.reason(error, path)}") from error
    files.append_line(path, json.dumps(record, allow_nan=False).encode() + b"\n")

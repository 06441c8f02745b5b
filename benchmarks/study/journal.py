"""A file of JSON lines that grows as results come, so that a stopped run goes on where it was."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from atom_plugin.errors import StoreError


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All records; a last line that a kill cut short is none. Raises StoreError for any other line that is no record."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError:
            if number == len(lines):
                break
            raise StoreError(f"{path}, line {number}: is not JSON; remove the line") from None
        if not isinstance(record, dict) or "table" not in record:
            raise StoreError(f"{path}, line {number}: is no cell of a table; name a file that this script wrote")
        records.append(record)
    return records


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Add one record; it is on the disk when this returns. Half a line at the end is cut off first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = path.read_bytes() if path.exists() else b""
    with path.open("r+b" if held else "wb") as file:
        file.truncate(held.rfind(b"\n") + 1)
        file.seek(0, os.SEEK_END)
        file.write((json.dumps(record, allow_nan=False) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())

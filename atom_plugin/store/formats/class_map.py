"""A file with the class name of each id in an imported file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from atom_plugin.errors import ConfigError
from atom_plugin.runtime import bounded_json

_IDS = 2**31
_FORMS = 'expected lines "ID NAME", a JSON object {"0": "name", …}, or a JSON list of names'


def read_class_map(path: Path) -> dict[int, str]:
    """Names by id: lines of id, blank and name; a JSON object of ids and names, in either direction; or a JSON list of names.

    Raises ConfigError for anything else.
    """
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"--class-map {path}: is not a regular file; {_FORMS}")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--class-map {path}: cannot be read ({error}); {_FORMS}") from error
    try:
        pairs = _pairs(bounded_json.parse(text))
    except ValueError:
        pairs = [_line(path, number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    found = dict(pairs)
    if odd := [label for label in found if not 0 <= label < _IDS]:
        raise ConfigError(f"--class-map {path}: found the id {odd[0]}, expected 0 to {_IDS - 1}; {_FORMS}")
    if not found or len(found) < len(pairs) or len(set(found.values())) < len(found):
        raise ConfigError(f"--class-map {path}: contains no class, or an id or a name twice; {_FORMS}")
    return found


def _pairs(value: Any) -> list[tuple[int, str]]:
    """Raises ValueError for text that is not a map."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return list(enumerate(value))
    if isinstance(value, dict) and all(isinstance(name, str) for name in value.values()):
        return [(int(key), name) for key, name in value.items()]
    if isinstance(value, dict) and all(type(label) is int for label in value.values()):
        return [(label, name) for name, label in value.items()]  # as torchvision's class_to_idx
    raise ValueError


def _line(path: Path, number: int, line: str) -> tuple[int, str]:
    found = re.fullmatch(r"\s*(\d{1,18})[\s,:=]\s*(.*\S)\s*", line)
    if found is None:
        raise ConfigError(f"--class-map {path}, line {number}: found {line.strip()[:60]!r}; {_FORMS}")
    return int(found[1]), found[2]

"""A tracker: the course of a run as lines of text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Lines:
    """A line per step, added to the file ``target``."""

    def __init__(self, target: str, *, name: str, config: Mapping[str, Any]) -> None:
        self._path = Path(target or "steps.txt")
        self._add(f"{name}: {config['matcher']}")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a line."""
        self._add(f"{step} {' '.join(sorted(values))}")

    def close(self) -> None:
        """The last line."""
        self._add("end")

    def _add(self, line: str) -> None:
        with self._path.open("a") as file:
            file.write(f"{line}\n")

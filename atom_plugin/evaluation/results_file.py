"""Networks already trained and tested, one JSON line each, so that a stopped evaluation goes on where it was."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.evaluation.jobs import Job, Outcome
from atom_plugin.runtime.files import append_line, reason
from atom_plugin.runtime.versions import package_versions

FORMAT = "atom-plugin/network-result"
FORMAT_VERSION = 1
_HEAD = f'{{"format": "{FORMAT}", "format_version": '.encode()  # how every line of ours starts, a torn one too
_IDENTITY = ("trained_on", "full", "tested_on", "model", "network", "training", "precision", "seed", "repeat")


class ResultsFile:
    """The finished networks in ``path``; :meth:`append` adds one.

    A missing file holds none, and is made at once, so that one that cannot be written is found before the work. What a kill
    left of a line is skipped; any other line that is no result raises StoreError with its number, as does a file that cannot
    be read or written. Several processes may append to one file; each sees what was there when it opened the file, and its own.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records: dict[str, dict[str, Any]] = {}
        try:
            with path.open("a+b") as file:
                file.seek(0)
                data = file.read()
        except OSError as error:
            raise StoreError(f"{path}: cannot be opened: {reason(error, path)}") from error
        for number, line in enumerate(data.split(b"\n"), 1):
            if line.strip():
                self._read(line, number)

    def __len__(self) -> int:
        return len(self._records)

    def _read(self, line: bytes, number: int) -> None:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if line.startswith(_HEAD[: len(line)]):
                return
            raise StoreError(
                f"{self.path}, line {number}: is not JSON ({error}); name a file of evaluation results"
            ) from None
        found = record.get("format") if isinstance(record, dict) else None
        if isinstance(record, dict) and {"iteration", "loss"} <= record.keys():
            raise StoreError(
                f"{self.path}, line {number}: is a line of a distillation's log, expected evaluation results; name another file"
            )
        if found != FORMAT:
            raise StoreError(
                f"{self.path}, line {number}: found format {found!r}, expected {FORMAT!r}; name a file of evaluation results"
            )
        if record.get("format_version") != FORMAT_VERSION:
            raise StoreError(
                f"{self.path}, line {number}: found format version {record.get('format_version')!r}, this release reads "
                f"{FORMAT_VERSION}; update atom-plugin, or name another file"
            )
        if not (_is_share(record.get("accuracy")) and record.keys() >= set(_IDENTITY)):
            raise StoreError(
                f"{self.path}, line {number}: is damaged; remove the line, and its network is trained again"
            )
        self._records.setdefault(_key(record), record)

    def accuracy_of(self, job: Job) -> float | None:
        """In [0, 1], None if this very network has not finished: same set, test images, model, budget, precision and seed."""
        record = self._records.get(job.key)
        return None if record is None else float(record["accuracy"])

    def require_budgets(self, jobs: Iterable[Job]) -> None:
        """Raise ConfigError, naming what differs, unless each of the file's networks was trained as some of ``jobs`` are.

        So ``jobs`` may compare several trainings, of which the file holds any. Networks on sets and those on all real images
        may differ from each other.
        """
        asked: dict[bool, list[dict[str, Any]]] = {}
        for cell in {id(job.cell): job.cell for job in jobs}.values():
            ways = asked.setdefault(cell.subject.full, [])
            if cell.identity["training"] not in ways:
                ways.append(cell.identity["training"])
        for record in self._records.values():
            held, ways = record["training"], asked.get(record["full"], [])
            if ways and held not in ways:
                name = min((_differing(held, training) for training in ways), key=len)[0]
                wanted = " or ".join(dict.fromkeys(str(training.get(name)) for training in ways))
                raise ConfigError(
                    f"{self.path}: holds networks trained with {name} {held.get(name)}, this evaluation asks for "
                    f"{wanted}; give the same options, or another file for --results"
                )

    def append(self, outcome: Outcome) -> None:
        """Add the line of a job that reached an accuracy; it is on the disk when this returns. Raises StoreError."""
        job, subject = outcome.job, outcome.job.cell.subject
        record = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "name": subject.name,
            "method": subject.method,
            "ipc": subject.ipc,
            **job.identity,
            "accuracy": outcome.accuracy,
            "seconds": round(outcome.seconds, 3),
            "hardware": outcome.hardware,
            "versions": {**package_versions(), "timm": metadata.version("timm")},
        }
        append_line(self.path, json.dumps(record, allow_nan=False).encode() + b"\n")
        self._records[job.key] = record


def _key(record: Mapping[str, Any]) -> str:
    return json.dumps({name: record[name] for name in _IDENTITY}, sort_keys=True)


def _differing(held: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    return [name for name in {**asked, **held} if asked.get(name) != held.get(name)]


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1

"""Networks already trained and tested, one JSON line each, so that a stopped evaluation can continue."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from atom_plugin.errors import ConfigError, StoreError, shown
from atom_plugin.evaluation.jobs import EvaluationJob, Outcome
from atom_plugin.evaluation.training_recipes import TrainConfig
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.runtime import jsonl
from atom_plugin.runtime.files import reason
from atom_plugin.runtime.settings import current_names
from atom_plugin.runtime.versions import package_versions

_LINES = jsonl.LineFormat(name="a file of evaluation results", value="atom-plugin/network-result", version=1)
_IDENTITY: dict[str, type] = {
    **{"trained_on": str, "full": bool, "tested_on": str, "model": str, "network": dict, "training": dict},
    **{"precision": str, "on": str, "seed": int, "repeat": int},
}


class NetworkResultsFile:
    """The finished networks in ``path``; :meth:`append` adds one.

    A missing file is created at once, so that a file that cannot be written is found before the work.
    :mod:`atom_plugin.runtime.jsonl` defines which lines are skipped, and which are a StoreError. Several processes may append
    to one file; each sees what was there when it opened the file, and its own lines. If two did the same network, the first
    counts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records: dict[str, dict[str, Any]] = {}
        try:
            path.open("ab").close()
        except OSError as error:
            raise StoreError(f"{path}: cannot be opened: {reason(error, path)}") from error
        for record in read_records(path):
            self._records.setdefault(_key(record), record)

    def __len__(self) -> int:
        return len(self._records)

    def accuracy_of(self, job: EvaluationJob) -> float | None:
        """The accuracy in [0, 1]; None if this network has not finished: same set, test images, model, budget, precision and
        seed.
        """
        outcome = self.outcome_of(job)
        return None if outcome is None else outcome.accuracy

    def outcome_of(self, job: EvaluationJob) -> Outcome | None:
        """The outcome that :meth:`append` got for this network, None if it has not finished."""
        if (record := self._records.get(job.key)) is None:
            return None
        accuracy, seconds = float(record["accuracy"]), float(record.get("seconds", 0.0))
        return Outcome(job=job, accuracy=accuracy, seconds=seconds, hardware=str(record.get("hardware", "")))

    def require_budgets(self, jobs: Iterable[EvaluationJob]) -> None:
        """Raise ConfigError, naming the difference, unless each of the file's networks was trained like some of ``jobs``.

        So ``jobs`` may compare several trainings, of which the file has any. Networks on sets and on all real images may differ
        from each other.
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
                usual = getattr(TrainConfig, name, None)  # of a field that is not told
                wanted = " or ".join(dict.fromkeys(str(training.get(name, usual)) for training in ways))
                raise ConfigError(
                    f"{self.path}: has networks trained with {name} {held.get(name, usual)}, this evaluation asks "
                    f"for {wanted}; give the same options, or another file for --results"
                )

    def append(self, outcome: Outcome) -> None:
        """Add the line of a job that has an accuracy; it is on the disk when this returns. Raises StoreError."""
        job, subject = outcome.job, outcome.job.cell.subject
        record = {
            "format": _LINES.value,
            "format_version": _LINES.version,
            "name": subject.name,
            "method": subject.method,
            "ipc": subject.ipc,
            "labels": job.cell.labels,
            **job.identity,
            "steps": job.cell.training.steps(len(subject)),
            "accuracy": outcome.accuracy,
            "seconds": round(outcome.seconds, 3),
            "hardware": outcome.hardware,
            "versions": {**package_versions(), "timm": metadata.version("timm")},
        }
        jsonl.append(self.path, record)
        self._records[job.key] = record


def read_records(path: Path) -> list[dict[str, Any]]:
    """The lines of the file, checked: none if there is no file. Raises StoreError for lines that are not results."""
    return jsonl.read(path, _LINES, _checked)


def _checked(record: dict[str, Any]) -> dict[str, Any]:
    record = {"on": "test", **record}  # lines from before there was a choice do not say it
    again = "remove the line, and its network is trained again"
    for name, kind in _IDENTITY.items():
        if name not in record:
            raise StoreError(f"is damaged, it has no {name}; {again}")
        if type(record[name]) is not kind:
            raise StoreError(f"is damaged, its {name} is {shown(record[name])}, expected a {kind.__name__}; {again}")
    if not _is_share(record.get("accuracy")):
        raise StoreError(f"is damaged, its accuracy is {shown(record.get('accuracy'))}, expected 0 to 1; {again}")
    seconds = record.get("seconds", 0)
    if not (_is_number(seconds) and seconds >= 0):
        raise StoreError(f"is damaged, its seconds are {shown(seconds)}, expected 0 or more; {again}")
    return {**record, "network": current_names(ConvNetConfig, record["network"])}


def _key(record: Mapping[str, Any]) -> str:
    return json.dumps({name: record[name] for name in _IDENTITY}, sort_keys=True)


def _differing(held: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    return [name for name in {**asked, **held} if asked.get(name, ...) != held.get(name, ...)]


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

"""Tables of docs/results.md, packing.md and any-ipc.md from the lines of scripts here in benchmarks/results/.

A row is a cell: its sets' networks tested on held-out training images, where choices are made, and on the test images.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Line = dict[str, Any]
RESULTS = Path(__file__).parent / "results"
# What the papers print at 10 images per class, best of their networks' or last epoch; packed 2x2 but for ATOM.
PUBLISHED = {"untrained": "M3D 63.5", "pool, calibration 100": "IDC 67.5, DANCE 70.8, NCFM 71.8 (best epoch)"}


def read_lines(name: str) -> list[Line]:
    """All lines of one file there, as committed."""
    return [json.loads(line) for line in (RESULTS / name).read_text("utf-8").splitlines()]


def best(lines: Sequence[Line]) -> dict[str, Sequence[str]]:
    """Columns of the table that compares the recipe best with real images packed alike."""
    found = _cells([line for line in lines if line["study"] == "best" and "training" in line])
    rows: dict[str, dict[str, list[Line]]] = {}
    for (cell, training), held in found.items():
        rows.setdefault(cell, {})[training] = held
    columns: dict[str, list[str]] = {"images": list(rows), "sets": [], "seconds a set": []}
    for held in rows.values():
        some = next(iter(held.values()))
        columns["sets"].append(str(len(some)))
        columns["seconds a set"].append(f"{statistics.fmean(line['seconds'] for line in some):.1f}")
    for training in dict.fromkeys(training for _, training in found):
        columns[f"test, {training}"] = [_mean(held.get(training, []), "test") for held in rows.values()]
    columns["published"] = [PUBLISHED.get(cell, "") for cell in rows]
    return columns


def choices(lines: Sequence[Line], study: str) -> dict[str, Sequence[str]]:
    """Columns of the table of one study's single choices, on held-out images, the best first."""
    found = _cells([line for line in lines if line["study"] == study and "training" in line])
    ordered = sorted(found.items(), key=lambda item: -statistics.fmean(_values(item[1], "validation")))
    return {
        "choice": [cell for (cell, _), _ in ordered],
        "steps": [str(held[0]["options"].get("iterations", "")) for _, held in ordered],
        "seconds": [f"{held[0]['seconds']:.1f}" for _, held in ordered],
        "held-out images": [_mean(held, "validation") for _, held in ordered],
    }


def _cells(lines: Sequence[Line]) -> dict[tuple[str, str], list[Line]]:
    cells: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        cells.setdefault((line["cell"], _training(line["training"])), []).append(line)
    return cells


def _training(training: Mapping[str, Any]) -> str:
    (name,) = training
    return name


def _values(lines: Sequence[Line], on: str) -> list[float]:
    return [statistics.fmean(line[on]) for line in lines]


def _mean(lines: Sequence[Line], on: str) -> str:
    """Mean over sets in %, with their sample standard deviation where there are several."""
    values = _values([line for line in lines if on in line], on)
    if not values:
        return ""
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.2f}{spread}"


def any_ipc(lines: Sequence[Line]) -> dict[str, Sequence[str]]:
    """Columns of the table of docs/any-ipc.md, a row for each kind: mean and deviation over sets of benchmarks/any_ipc.py."""
    kinds = list(dict.fromkeys(line["kind"] for line in lines))
    counts = sorted({line["ipc"] for line in lines})
    columns: dict[str, Sequence[str]] = {"set": kinds}
    for count in counts:
        held = {kind: [line for line in lines if (line["kind"], line["ipc"]) == (kind, count)] for kind in kinds}
        columns[f"IPC {count}"] = [_mean(held[kind], "accuracies") for kind in kinds]
    return columns


def growing(lines: Sequence[Line]) -> dict[str, Sequence[str]]:
    """Columns of the table of grown sets, a row for each kind and count: of the lines of benchmarks/growing.py."""
    rows: dict[tuple[str, int], list[Line]] = {}
    for line in lines:
        rows.setdefault((line["kind"], line["ipc"]), []).append(line)
    return {
        "set": [kind for kind, _ in rows],
        "IPC": [str(count) for _, count in rows],
        "accuracy": [_mean(held, "accuracies") for held in rows.values()],
        "sets": [str(len(held)) for held in rows.values()],
    }


def step_times(lines: Sequence[Line]) -> dict[str, Sequence[str]]:
    """Columns of the table of steps' times, a row for each kind of run: of the one line of benchmarks/any_ipc_time.py."""
    (line,) = lines
    seconds = line["seconds"]
    over = {
        kind: [one / plain for one, plain in zip(own, seconds["plain"], strict=True)] for kind, own in seconds.items()
    }
    return {
        "step": list(seconds),
        "seconds, median": [f"{statistics.median(own):.2f}" for own in seconds.values()],
        "over plain": [
            f"{statistics.median(own) / statistics.median(seconds['plain']):.2f}" for own in seconds.values()
        ],
        "in turn, from": [f"{min(ratios):.2f}" for ratios in over.values()],
        "to": [f"{max(ratios):.2f}" for ratios in over.values()],
    }

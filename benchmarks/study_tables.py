"""Tables of docs/results.md, packing.md, any-ipc.md and rivals.md from the lines of scripts here in benchmarks/results/.

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

# Where the cells of the table of packed sets are: by row and images per class, the study and its cell.
PACKED = {
    "ours, under a pool of trained networks": {
        1: ("ipc1", "calibration 100"),
        10: ("best", "pool, calibration 100"),
        50: ("ipc50", "pool, calibration 100"),
    },
    "ours, under random networks": {
        1: ("ipc1", "untrained"),
        10: ("length", "8,000 steps, untrained"),
        50: ("ipc50", "untrained"),
    },
    "herding": {1: ("ipc1", "herding"), 10: ("best", "herding"), 50: ("ipc50", "herding")},
    "random": {1: ("ipc1", "random"), 10: ("best", "random"), 50: ("ipc50", "random")},
}
# What their papers print at 1, 10 and 50 images per class of CIFAR-10; packed 2x2 but for ATOM.
PRINTED = {
    "ATOM, not packed": (34.8, 57.9, 68.8),
    "M3D": (45.3, 63.5, 69.9),
    "IDC": (50.6, 67.5, 74.5),
    "DANCE, best epoch": (47.1, 70.8, 76.1),
    "NCFM, best epoch": (49.5, 71.8, 77.4),
}

# ATOM, table 3: seconds of a step and MB of a GPU at most, by images per class; an A100, CIFAR-10.
PRINTED_STEPS = {
    "dc": {1: ("0.16", "3515"), 10: ("3.31", "3621")},
    "dsa": {1: ("0.22", "3513"), 10: ("4.47", "3639")},
    "dm": {1: ("0.08", "3323"), 10: ("0.08", "3455")},
    "mtt": {1: ("0.36", "2711"), 10: ("0.40", "8049")},
    "datadam": {1: ("0.09", "3452"), 10: ("0.08", "3561")},
    "atom": {1: ("0.10", "3601"), 10: ("0.10", "4314")},
}


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


def packed(lines: Sequence[Line]) -> dict[str, Sequence[str]]:
    """Columns of the table of packed sets by images per class, ours and published: test accuracies, and the number of sets."""
    columns: dict[str, Sequence[str]] = {"images": [*PACKED, *(f"{name} (published)" for name in PRINTED)]}
    for place, count in enumerate((1, 10, 50)):
        cells = [_packed_cell(lines, *row[count]) for row in PACKED.values()]
        columns[f"IPC {count}"] = [_mean(held, "test") for held in cells] + [
            f"{row[place]}" for row in PRINTED.values()
        ]
        columns[f"sets, IPC {count}"] = [str(len(held) or "") for held in cells] + [""] * len(PRINTED)
    return columns


def _packed_cell(lines: Sequence[Line], study: str, cell: str) -> list[Line]:
    held = [line for line in lines if (line["study"], line["cell"]) == (study, cell) and "training" in line]
    return [line for line in held if _training(line["training"]).startswith("packed")]


def choices(lines: Sequence[Line], study: str) -> dict[str, Sequence[str]]:
    """Columns of the table of one study's single choices, on held-out images, the best first."""
    found = _cells([line for line in lines if line["study"] == study and "training" in line])
    ordered = sorted(found.items(), key=lambda item: -statistics.fmean(_values(item[1], "validation")))
    return {
        "choice": [cell for (cell, _), _ in ordered],
        "steps": [_steps(held[0]["options"]) for _, held in ordered],
        "seconds": [f"{held[0]['seconds']:.1f}" for _, held in ordered],
        "held-out images": [_mean(held, "validation") for _, held in ordered],
    }


def _steps(options: Mapping[str, Any]) -> str:
    """The iterations of a set; a selection has none, whatever its study says of the other cells."""
    return "" if "method" in options else str(options.get("iterations", ""))


def rivals(lines: Sequence[Line]) -> dict[str, Sequence[str]]:
    """Columns of the table of all methods of the papers' tables: a row for each, for each count of images per class."""
    tested = [line for line in lines if "test" in line]
    methods, counts = ([*dict.fromkeys(map(part, tested))] for part in (_method, _ipc))
    columns: dict[str, Sequence[str]] = {"method": methods}
    for count in counts:
        held = {name: [line for line in tested if (_method(line), _ipc(line)) == (name, count)] for name in methods}
        columns[f"IPC {count}, test"] = [_mean(held[name], "test") for name in methods]
        columns[f"iterations at IPC {count}"] = [
            str(held[name][0]["options"].get("iterations", "")) for name in methods
        ]
        seconds = [statistics.fmean(line["processor seconds"] for line in held[name]) for name in methods]
        columns[f"seconds a set at IPC {count}"] = [f"{value:.1f}" for value in seconds]
    return columns


def rival_steps(lines: Sequence[Line]) -> dict[str, Sequence[str]]:
    """Columns of the table of their steps: processor time and memory here, and what ATOM's table 3 prints."""
    measured = {line["cell"]: line for line in lines if "steps" in line}
    methods = list(dict.fromkeys(_method(line) for line in measured.values()))
    columns: dict[str, Sequence[str]] = {"method": methods}
    for count in sorted({_ipc(line) for line in measured.values()}):
        held = [line for name in methods for line in measured.values() if (_method(line), _ipc(line)) == (name, count)]
        columns[f"s, IPC {count}"] = [f"{line['processor seconds a step']:.3f}" for line in held]
        columns[f"MB, IPC {count}"] = [f"{1000 * (line['GB at most'] - line['GB before']):.0f}" for line in held]
        printed = [PRINTED_STEPS.get(name, {}).get(count, ("", "")) for name in methods]
        columns[f"table 3: s, IPC {count}"] = [seconds for seconds, _ in printed]
        columns[f"table 3: MB, IPC {count}"] = [size for _, size in printed]
    return columns


def _method(line: Line) -> str:
    return str(line["cell"].partition(", IPC ")[0])


def _ipc(line: Line) -> int:
    return int(line["options"]["ipc"])


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

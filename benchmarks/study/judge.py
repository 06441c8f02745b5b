"""Stage 2: networks trained on the sets, one JSON line per cell."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from atom_plugin.datasets import SourceData
from atom_plugin.errors import AtomError, ConfigError
from atom_plugin.evaluation import Evaluation, ResultsFile, evaluate
from atom_plugin.evaluation.training import TrainConfig
from atom_plugin.runtime.device import processor, resolve_device
from atom_plugin.runtime.versions import package_versions
from atom_plugin.store.synthetic_set import SyntheticSet
from study.journal import append_line, read_lines
from study.plan import Job, identity, training_identity
from study.sets import SetFolder, Wanted

NETWORKS = "networks.jsonl"  # in the folder of the sets


def judge(jobs: Iterable[Job], folder: SetFolder, results: Path, *, dataset: str, device: str) -> list[str]:
    """Append a line for every cell that ``results`` does not hold yet; returns a line for each that could not be judged.

    Networks are noted one by one in the folder of the sets, so that a stopped run loses the one under way. ``dataset`` is
    what the source is called in the tables. A cell that equals another one but in name takes its figures.
    """
    lines, failed = read_lines(results), []
    finished = ResultsFile(folder.folder / NETWORKS)
    for job in jobs:
        if done(job, folder.data, lines):
            continue
        equal = _equal(job, folder.data, lines)
        try:
            found = _borrowed(equal[0]) if equal else _accuracies(job, folder, finished, device)
        except AtomError as error:
            failed.append(f"{job.cell.name}: {error}")
            continue
        line = {**head(job, folder.data, dataset), **found}
        append_line(results, line)
        lines.append(line)
        print(f"{job.cell.name}: {100 * line['mean']:.2f} ± {100 * line['std']:.2f} %", file=sys.stderr)
    return failed


def done(job: Job, data: SourceData, lines: list[dict[str, Any]]) -> bool:
    """Whether ``lines`` hold this cell, measured as ``job`` asks, for a table of the same protocol."""
    same = [line for line in _equal(job, data, lines) if _place_of(line) == _place(job)]
    return any(job.cell.selection is not None or line["protocol"] == job.protocol for line in same)


def _equal(job: Job, data: SourceData, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    measured = _measured(job, data)
    return [line for line in lines if _measured_of(line) == measured]


def train_and_test(
    synthetic_set: SyntheticSet,
    data: SourceData,
    training: TrainConfig,
    *,
    model: str,
    normalisation: str | None,
    networks: int,
    seed: int,
    device: str,
    finished: ResultsFile,
) -> Evaluation:
    """The one place that evaluates; ``model`` as `--models` has it. Raises ConfigError where it cannot be built."""
    return evaluate(
        synthetic_set,
        data.test,
        training,
        model=model,
        normalisation=normalisation,
        repeats=networks,
        seed=seed,
        device=device,
        tested_on=data.fingerprint,
        finished=finished,
    )


def _accuracies(job: Job, folder: SetFolder, finished: ResultsFile, device: str) -> dict[str, Any]:
    """What a cell's line holds of measured things, in the order of its seeds."""
    sets = []
    for config in job.configs:
        found = folder.find(Wanted(config=config, selection=job.cell.selection))
        if found is None:
            raise ConfigError(f"its set is not in {folder.folder}; make it first (--only distil)")
        sets.append(found)
    started = time.perf_counter()
    judged = [
        train_and_test(
            each,
            folder.data,
            job.training,
            model=job.cell.model,
            normalisation=job.normalisation,
            networks=job.networks,
            seed=job.seed + number,
            device=device,
            finished=finished,
        )
        for number, each in enumerate(sets)
    ]
    values = [value for one in judged for value in one.accuracies]
    return {
        "accuracies": [list(one.accuracies) for one in judged],
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else 0.0,
        "iterations": sets[0].provenance.iterations,
        "precision": judged[0].precision,
        "network": asdict(judged[0].network),
        "test_images": judged[0].test_images,
        "seconds": round(time.perf_counter() - started, 3),
        "hardware": hardware(device),
        "versions": package_versions(),
        "same_as": None,
    }


def head(job: Job, data: SourceData, dataset: str) -> dict[str, Any]:
    """What a cell's line holds before anything was measured."""
    cell = job.cell
    return {
        "table": cell.table,
        "row": cell.row,
        "column": cell.column,
        "dataset": cell.dataset,
        "data": dataset,
        "source": {"name": data.name, "fingerprint": data.fingerprint},
        "selection": cell.selection,
        "config": job.configs[0].to_json(),
        "seeds": [config.seed for config in job.configs],
        "model": cell.model,
        "normalisation": job.normalisation,
        "training": asdict(job.training),
        "networks": job.networks,
        "sets": len(job.configs),
        "seed": job.seed,
        "protocol": dict(job.protocol),
        "paper": None if cell.paper is None else cell.paper.to_json(),
    }


_MEASURED = (
    *("accuracies", "mean", "std", "iterations", "precision", "network", "test_images", "seconds", "hardware"),
    "versions",
)


def _borrowed(line: dict[str, Any]) -> dict[str, Any]:
    same = f"table {line['table']}, {line['row']}, {line['column']}"
    return {**{name: line[name] for name in _MEASURED}, "same_as": line["same_as"] or same}


def _measured(job: Job, data: SourceData) -> tuple[Any, ...]:
    """Equal for two cells that must come to the same value."""
    config = job.configs[0].to_json()
    seeds = tuple(each.seed for each in job.configs)
    rest = (
        *(job.cell.model, job.normalisation, training_identity(asdict(job.training))),
        *(job.networks, job.seed, data.fingerprint),
    )
    return job.cell.selection, identity(config, job.cell.selection), seeds, *rest


def _measured_of(line: dict[str, Any]) -> tuple[Any, ...]:
    rest = (
        *(line["model"], line["normalisation"], training_identity(line["training"])),
        *(line["networks"], line["seed"], line["source"]["fingerprint"]),
    )
    return line["selection"], identity(line["config"], line["selection"]), tuple(line["seeds"]), *rest


def _place(job: Job) -> tuple[Any, ...]:
    return job.cell.table, job.cell.row, job.cell.column, job.cell.dataset


def _place_of(line: dict[str, Any]) -> tuple[Any, ...]:
    return line["table"], line["row"], line["column"], line["dataset"]


def hardware(device: str) -> dict[str, Any]:
    """Where something was measured."""
    kind = resolve_device(device)
    name = torch.cuda.get_device_name() if kind.type == "cuda" else processor()
    return {"device": kind.type, "name": name, "cores": os.cpu_count(), "threads": torch.get_num_threads()}

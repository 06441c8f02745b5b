"""Table 3: seconds per step and peak memory, each method in a process of its own."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from atom_plugin.datasets import SourceData, SourceRequest, load_source
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.distiller import Distiller
from atom_plugin.errors import AtomError
from atom_plugin.runtime.versions import package_versions
from study.journal import append_line, read_lines
from study.judge import done, hardware, head
from study.plan import Job

_WARM_UP = 3


@dataclass(frozen=True, kw_only=True)
class Cost:
    """``seconds`` of each step, and the most ``megabytes`` (1e6 bytes): of torch on a GPU, of the whole process on a CPU.

    A step is all that is done under one network: ``inner_loop`` matching steps, and the network's training between them.
    """

    seconds: tuple[float, ...]
    megabytes: float


def measure_costs(
    jobs: Iterable[Job], data: SourceData, request: SourceRequest, results: Path, *, dataset: str, device: str
) -> list[str]:
    """Append a line for every cost cell that ``results`` does not hold yet; returns a line for each that failed.

    Time and memory of one method are two cells of one measurement.
    """
    lines, failed = read_lines(results), []
    groups: dict[tuple[str, int], list[Job]] = {}
    for job in jobs:
        if not done(job, data, lines):
            groups.setdefault((job.cell.row, job.cell.ipc), []).append(job)
    for group in groups.values():
        first = group[0]
        try:
            cost = _apart(first.configs[0], data.name, request, device, first.protocol["steps"])
        except AtomError as error:
            failed.append(f"{first.cell.name}: {error}")
            continue
        for job in group:
            measured = {**_values(job, cost), "hardware": hardware(device), "versions": package_versions()}
            append_line(results, {**head(job, data, dataset), **measured, "same_as": None})
            print(f"{job.cell.name}: {measured['mean']:.4g}", file=sys.stderr)
    return failed


def _values(job: Job, cost: Cost) -> dict[str, Any]:
    if job.cell.column.startswith("MB"):
        return {"mean": cost.megabytes, "std": None, "steps": len(cost.seconds)}
    return {
        "mean": statistics.fmean(cost.seconds),
        "std": statistics.stdev(cost.seconds) if len(cost.seconds) > 1 else None,
        "steps": len(cost.seconds),
    }


def _apart(config: DistillConfig, source: str, request: SourceRequest, device: str, steps: int) -> Cost:
    """In a new process: the most memory that one took is never given back."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_cost, config, source, request, device, steps).result()


def _cost(config: DistillConfig, source: str, request: SourceRequest, device: str, steps: int) -> Cost:
    distiller = Distiller(config, load_source(source, request), device=device)
    seconds = []
    with distiller.running():
        for number in range(_WARM_UP + steps):
            if number == _WARM_UP and distiller.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            started = time.perf_counter()
            for _ in range(config.inner_loop):
                distiller.step()
            if distiller.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    return Cost(seconds=tuple(seconds[_WARM_UP:]), megabytes=_peak(distiller.device) / 1e6)


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    # VmHWM, not getrusage: Linux lets a child's ru_maxrss begin at its parent's.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * float(status["VmHWM"].split()[0])

"""Time a distillation step in one process with all threads against several with one each: `python benchmarks/processes.py`.

CIFAR-10's shapes with random pixels (the time does not depend on them), as benchmarks/step.py. Settings take turns, so that a
slower minute of the machine hits all; each turn starts its processes anew, and warms up before it measures. Writes one JSON
line to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from step import SHAPE, device_name, random_source, whitening_of_cifars_size

from atom_plugin import processes
from atom_plugin.config import DistillConfig
from atom_plugin.distillation import Distiller
from atom_plugin.versions import package_versions

_RESULT = "ATOM_PLUGIN_BENCHMARK_RESULT"


def seconds_per_step(options: argparse.Namespace) -> list[float]:
    """Steps of this process, one of a group or alone; all wait for one another in each."""
    config = DistillConfig.from_recipe(
        "atom",
        ipc=options.ipc,
        image_shape=SHAPE,
        real_batch=options.real_batch,
        network={"normalisation": options.normalisation},
        memory_budget=options.memory_budget,
    )
    torch.set_num_threads(options.threads)
    times = []
    with processes.joined(options.device):
        distiller = Distiller(config, random_source(), device=options.device, preprocessing=whitening_of_cifars_size())
        with distiller.running():
            for _ in range(options.warm_up + options.steps):
                processes.highest(0.0)  # all start together
                started = time.perf_counter()
                distiller.step()  # ends in a number on the host
                times.append(time.perf_counter() - started)
        if processes.leads():
            Path(os.environ[_RESULT]).write_text(json.dumps(times[options.warm_up :]))
    return times


def measured(count: int, threads: int, result: Path, arguments: list[str]) -> list[float]:
    """Seconds of the first of ``count`` processes with ``threads`` each, started as torchrun does."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
    command = [sys.executable, *launch, __file__, *arguments, "--threads", str(threads), "--worker"]
    environment = {**os.environ, _RESULT: str(result), "OMP_NUM_THREADS": str(threads)}
    subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
    times: list[float] = json.loads(result.read_text())
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--real-batch", type=int, default=64)
    parser.add_argument("--normalisation", default="batch")
    parser.add_argument("--memory-budget", type=int, help="bytes, for chunks of classes in each process")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--turns", type=int, default=1, help="how often each setting is started")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of all processes of a setting together")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        seconds_per_step(options)
        return
    result = Path(f"processes-{os.getpid()}.tmp")
    times: dict[str, list[float]] = {}
    try:
        for _ in range(options.turns):
            for count in options.processes:
                threads = max(1, options.threads // count)
                name = f"{count} x {threads} threads"
                times.setdefault(name, []).extend(measured(count, threads, result, sys.argv[1:]))
    finally:
        result.unlink(missing_ok=True)
    median = {name: statistics.median(values) for name, values in times.items()}
    first = next(iter(median.values()))
    settings = ("ipc", "real_batch", "normalisation", "memory_budget", "device")
    record = {
        "setting": {name: getattr(options, name) for name in settings},
        "machine": {"device": device_name(options.device), "cores": os.cpu_count(), "load": os.getloadavg()},
        "versions": package_versions(),
        "n": {name: len(values) for name, values in times.items()},
        "seconds": {name: {"median": median[name], "min": min(t), "max": max(t)} for name, t in times.items()},
        "speed": {name: first / value for name, value in median.items()},
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()

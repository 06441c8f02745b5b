"""Time a distillation step in one process with all threads against several with one each: `python benchmarks/distributed.py`.

CIFAR-10's shapes with random pixels (the time does not depend on them), as benchmarks/step.py. Settings take turns, so that
other load on the machine slows all of them; each turn starts new processes, and warms up before it measures. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from common import options_of, run_script, spread, surroundings, table
from step import SHAPE, random_source, whitening_of_cifars_size

from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.distiller import Distiller
from atom_plugin.runtime import distributed

_RESULT = "ATOM_PLUGIN_BENCHMARK_RESULT"


_WARM_UP = 3


def seconds_per_step(options: argparse.Namespace) -> list[float]:
    """Steps of this process, one of a group or alone; all begin each together."""
    config = DistillConfig.from_recipe(
        "atom",
        ipc=1 if options.quick else options.ipc,
        image_shape=SHAPE,
        real_batch=4 if options.quick else options.real_batch,
        network={"normalisation": options.normalisation, **({"width": 8} if options.quick else {})},
        memory_budget=options.memory_budget,
    )
    torch.set_num_threads(options.threads)
    times = []
    with distributed.joined(options.device):
        distiller = Distiller(config, random_source(), device=options.device, preprocessing=whitening_of_cifars_size())
        with distiller.running():
            for _ in range(_WARM_UP + options.repeats):
                distributed.highest(0.0)
                started = time.perf_counter()
                distiller.step()  # ends in a number on the host
                times.append(time.perf_counter() - started)
        if distributed.leads():
            Path(os.environ[_RESULT]).write_text(json.dumps(times[_WARM_UP:]))
    return times


def measured(count: int, threads: int, arguments: Sequence[str]) -> list[float]:
    """Seconds of the first of ``count`` processes with ``threads`` each, started as torchrun does."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
    command = [sys.executable, *launch, __file__, *arguments, "--threads", str(threads), "--worker"]
    with TemporaryDirectory() as folder:
        result = Path(folder) / "seconds.json"
        environment = {**os.environ, _RESULT: str(result), "OMP_NUM_THREADS": str(threads)}
        subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
        times: list[float] = json.loads(result.read_text())
    return times


def main(arguments: Sequence[str]) -> dict[str, Any]:
    parser = options_of(__doc__, repeats=7)
    parser.set_defaults(threads=os.cpu_count())
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--real-batch", type=int, default=64)
    parser.add_argument("--normalisation", default="batch")
    parser.add_argument("--memory-budget", type=int, help="bytes, for chunks of classes in each process")
    parser.add_argument("--turns", type=int, default=1, help="how often each setting is started")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        return {"seconds": seconds_per_step(options)}
    where = surroundings(options.device, options.threads)
    times: dict[str, list[float]] = {}
    for _ in range(options.turns):
        for count in options.processes:
            threads = max(1, options.threads // count)
            times.setdefault(f"{count} x {threads}", []).extend(measured(count, threads, arguments))
    seconds = {name: spread(values) for name, values in times.items()}
    first = next(iter(seconds.values()))["median"]
    rows = [[name, each["median"], each["min"], each["max"], first / each["median"]] for name, each in seconds.items()]
    settings = ("ipc", "real_batch", "normalisation", "memory_budget", "device")
    return {
        **where,
        "setting": {name: getattr(options, name) for name in settings},
        "load": os.getloadavg()[0],
        "n": options.repeats * options.turns,
        "seconds": seconds,
        "tables": [table("Processes x threads: seconds of a step", ["", "median", "least", "most", "speed"], rows)],
    }


if __name__ == "__main__":
    run_script(main)

"""Seconds of a step whose real batch serves several: `OMP_NUM_THREADS=1 python benchmarks/sharing_time.py`.

Runs of each real batch and inner loop take whole inner loops in turn, so that other load on the machine slows all of them
equally; on a CPU processor seconds are counted. A step's time is the mean over a loop's steps. Loops are at least four steps
long, also without sharing. Images are noise of CIFAR-10's size. Prints and returns one JSON object.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from any_ipc_time import noise
from common import options_of, run_script, spread, surroundings

from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.distiller import Distiller
from atom_plugin.runtime.device import resolve_device


def run_of(steps: int, real_batch: int, given: Any) -> Distiller:
    """A run of the recipe atom in which ``steps`` steps share a real batch."""
    config = DistillConfig.from_recipe(
        "atom",
        image_shape=(3, 32, 32),
        ipc=given.ipc,
        real_batch=real_batch,
        inner_loop=steps,
        share_real=True if steps > 1 else None,
        network={"width": 8 if given.quick else given.width},
        image_init="random",
        precision=given.precision,
    )
    return Distiller(config, noise((3, 32, 32), max(real_batch, given.ipc)), device=given.device)


def main(arguments: Sequence[str]) -> dict[str, Any]:
    parser = options_of(__doc__, repeats=5)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--real-batches", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--inner-loops", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--precision", default="float32")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    clock = time.process_time if resolve_device(given.device).type == "cpu" else time.perf_counter
    batches = [4] if given.quick else given.real_batches
    seconds: dict[str, list[float]] = {}
    with ExitStack() as stack:
        runs = {}
        for batch, steps in itertools.product(batches, given.inner_loops):
            run = run_of(steps, batch, given)
            stack.enter_context(run.running())
            runs[f"real batch {batch}, {steps} steps"] = run, max(4, steps) // steps * steps
        for number in range(given.repeats + 1):
            for name, (run, count) in runs.items():
                began = clock()
                for _ in range(count):
                    run.step()
                if number:  # the first of each warms up
                    seconds.setdefault(name, []).append((clock() - began) / count)
    return {
        "setting": {"ipc": given.ipc, "width": given.width, "precision": given.precision},
        **surroundings(given.device, given.threads),
        "seconds a step": {name: spread(values) for name, values in seconds.items()},
    }


if __name__ == "__main__":
    run_script(main)

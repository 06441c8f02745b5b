"""Time a distillation step on the CPU with each of its optimisations switched off in turn: `python benchmarks/mechanisms.py`.

Also times the plain step of step.py (as in released scripts). All steps take turns, so that other load on the machine slows all
of them; the gain of an optimisation is the median over rounds of the ratio to the full step in the same round. ``--precision
bfloat16`` is for processors that multiply in it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from common import options_of, run_script, surroundings, table, timed
from step import PlainStep, config_of, random_source, whitening_of_cifars_size

from atom_plugin.distillation.distiller import Distiller

FULL, PLAIN = "the step", "plain step of a released script"
SWITCHES = {"freed memory kept": "keep_memory", "whitened images kept": "keep_whitened"}


@contextmanager
def entered(runs: dict[str, Callable[[], object]], name: str) -> Iterator[None]:
    """Within: the context of one run's steps. Left after each turn, since freed memory is kept for the whole process."""
    run = getattr(runs[name], "__self__", None)
    if not isinstance(run, Distiller):
        yield
        return
    with run.running():
        for _ in range(2):  # the first steps pay for pages that the context before handed back
            run.launch()
        yield


def main(arguments: Sequence[str]) -> dict[str, Any]:
    parser = options_of(__doc__, repeats=7)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--real-batch", type=int, default=64)
    parser.add_argument("--normalisation", default="batch")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    options = parser.parse_args(arguments)
    where = surroundings(options.device, options.threads)
    torch.set_num_threads(options.threads)
    config = replace(config_of(options), precision=options.precision)
    data, preprocessing = random_source(100 if options.quick else 5000), whitening_of_cifars_size()

    def ours(**switches: bool) -> Callable[[], object]:
        return Distiller(config, data, device=options.device, preprocessing=preprocessing, **switches).launch

    runs: dict[str, Callable[[], object]] = {FULL: ours()}
    for what, switch in SWITCHES.items():
        runs[f"without {what}"] = ours(**{switch: False})
    runs[PLAIN] = PlainStep(config, data, preprocessing, options.device)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(options.repeats + 1):
        for name, run in runs.items():
            with entered(runs, name):
                value = timed(run)
            if repeat:  # the first round warms up
                seconds[name].append(value)
    ratios = {
        name: statistics.median(own / full for own, full in zip(values, seconds[FULL], strict=True))
        for name, values in seconds.items()
    }
    rows = [[name, statistics.median(values), ratios[name]] for name, values in seconds.items()]
    setting = (
        f"IPC {options.ipc}, {config.real_batch} real images per class, {options.normalisation}, {options.precision}"
    )
    return {
        **where,
        "n": options.repeats,
        "seconds": seconds,
        "tables": [table(f"{setting}, n = {options.repeats}", ["step", "median s", "ratio to the full step"], rows)],
        "notes": [],
    }


if __name__ == "__main__":
    run_script(main)

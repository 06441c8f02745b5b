"""Seconds of a step by kind of operation, for the plain step and the fast one: `python benchmarks/breakdown.py`.

From torch's profiler: on a CPU the time of the operations that the step calls, on one thread, since the profiler sees no
others; on a GPU the time of its kernels. Other time (Python, waiting) is not counted; the profiler's own overhead is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from common import options_of, run_script, surroundings
from step import PlainStep, config_of, random_source, whitening_of_cifars_size
from torch.profiler import ProfilerActivity, profile

from atom_plugin.distillation.distiller import Distiller

# The first that fits a name decides; the names are those of torch's operations, and of kernels.
KINDS = {
    "copies and layouts": r"copy|clone|memcpy|memset|contiguous|::cat|index|gather|scatter|nchw|nhwc|transpose",
    "convolutions": r"conv|fprop|dgrad|wgrad|winograd",
    "normalisation": r"norm|batch_?stats|::var",
    "pooling": r"pool",
    "matrix products": r"::b?a?d*b?mm|gemm|gemv|matmul|cutlass|::dot",
}
REST = "sums, powers and the rest"


def kind_of(name: str) -> str:
    lower = name.lower()
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, lower)), REST)


def by_kind(run: Callable[[], object], repeats: int, device: str) -> dict[str, float]:
    """Mean seconds of one call by kind of operation, most first."""
    on_gpu = device != "cpu"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    # One cycle is all there is; torch 2.11 warns that events of others are lost unless it is told to keep them.
    with profile(activities=activities, acc_events=True) as profiler:
        for _ in range(repeats):
            run()
        if on_gpu:
            torch.cuda.synchronize()
    total: Counter[str] = Counter()
    for event in profiler.key_averages():
        if not on_gpu:
            total[kind_of(event.key)] += event.self_cpu_time_total
        elif event.device_type.name == "CUDA":  # a kernel; the operation that launched it is listed, too
            total[kind_of(event.key)] += event.self_device_time_total
    return {kind: microseconds / 1e6 / repeats for kind, microseconds in total.most_common()}


def main(arguments: Sequence[str]) -> dict[str, Any]:
    parser = options_of(__doc__, repeats=2)
    parser.set_defaults(real_batch=64, normalisation="batch", threads=1)
    parser.add_argument("--ipc", type=int, default=10)
    options = parser.parse_args(arguments)
    where = surroundings(options.device, options.threads)
    torch.set_num_threads(options.threads)
    config, preprocessing = config_of(options), whitening_of_cifars_size()
    data = random_source(per_class=200)  # a batch is drawn from few as from many
    plain = PlainStep(config, data, preprocessing, options.device)
    ours = Distiller(config, data, device=options.device, preprocessing=preprocessing)
    plain()
    seconds = {"plain": by_kind(plain, options.repeats, options.device)}
    with ours.running():
        for _ in range(1 if options.quick else 3):
            ours.launch()
        seconds["ours"] = by_kind(ours.launch, options.repeats, options.device)
    setting = {"ipc": options.ipc, "real_batch": config.real_batch}
    return {"setting": setting, **where, "n": options.repeats, "seconds": seconds}


if __name__ == "__main__":
    run_script(main)

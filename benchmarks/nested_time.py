"""Seconds of a step of a nested run over one of a plain run: `OMP_NUM_THREADS=1 python benchmarks/nested_time.py`.

Both take their steps in turn, so that what else the machine does slows both alike; on a CPU its own seconds are counted, not
the clock's. Images are noise of CIFAR-10's size. A line of JSON is printed, and appended to --out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from contextlib import ExitStack
from pathlib import Path

import torch

from atom_plugin.datasets import SourceData, Split
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.distiller import Distiller
from atom_plugin.runtime import jsonl
from atom_plugin.runtime.device import describe_hardware, resolve_device

CLASSES = 10


def noise(shape: tuple[int, int, int], per_class: int) -> SourceData:
    """A source of ``per_class`` random images (C, H, W) of each class."""
    labels = torch.arange(CLASSES).repeat_interleave(per_class)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (len(labels), *shape), generator=generator, dtype=torch.uint8)
    split = Split(images=images, labels=labels)
    names = tuple(map(str, range(CLASSES)))
    return SourceData(name="noise", train=split, test=split, class_names=names, fingerprint="noise", options={})


def main(arguments: list[str] | None = None) -> dict[str, object]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ipc", type=int, default=50)
    parser.add_argument("--nested", default="some")
    parser.add_argument("--steps", type=int, default=15, help="of each, after one that is not counted")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    device = resolve_device(given.device)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    data = noise((3, given.side, given.side), max(2 * given.ipc, 128))
    seconds: dict[str, list[float]] = {"plain": [], "nested": []}
    with ExitStack() as stack:
        runs = {}
        for kind in seconds:
            config = DistillConfig.from_recipe(
                "atom",
                ipc=given.ipc,
                image_shape=data.image_shape,
                precision=given.precision,
                image_init="random",
                nested=given.nested if kind == "nested" else None,
            )
            runs[kind] = Distiller(config, data, device=given.device)
            stack.enter_context(runs[kind].running())
        for number in range(given.steps + 1):
            for kind, run in runs.items():
                began = clock()
                run.step()
                if number:
                    seconds[kind].append(clock() - began)
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    line = {
        "ipc": given.ipc,
        "nested": given.nested,
        "steps": given.steps,
        "precision": given.precision,
        "threads": torch.get_num_threads(),
        "seconds": medians,
        "ratio": medians["nested"] / medians["plain"],
        "ratios of pairs": [other / one for one, other in zip(*seconds.values(), strict=True)],
        "machine": describe_hardware(device),
    }
    print(json.dumps(line))
    if given.out is not None:
        jsonl.append(given.out, line)
    return line


if __name__ == "__main__":
    main()

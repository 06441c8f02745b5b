"""Seconds of a step of a nested and of a growing run over a plain one's: `OMP_NUM_THREADS=1 python benchmarks/any_ipc_time.py`.

The runs take their steps in turn, so that other load on the machine slows all of them equally; on a CPU processor seconds are
counted, not wall-clock seconds. The growing set has half the images, which are frozen. Images are noise of CIFAR-10's size.
Writes a line of JSON to --out.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

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


def runs_of(data: SourceData, given: argparse.Namespace, folder: Path) -> dict[str, Distiller]:
    """A plain run, a nested one, and one that grows a set of half the images."""

    def run(**options: Any) -> Distiller:
        config = DistillConfig.from_recipe(
            "atom",
            **{"ipc": given.ipc, "image_init": "random", **options},
            image_shape=data.image_shape,
            precision=given.precision,
        )
        return Distiller(config, data, device=given.device)

    run(ipc=given.ipc // 2).synthetic_set().save(folder / "half.h5")
    return {"plain": run(), "nested": run(nested=given.nested), "growing": run(extend=str(folder / "half.h5"))}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ipc", type=int, default=50)
    parser.add_argument("--nested", default="some")
    parser.add_argument("--steps", type=int, default=9, help="of each, after one that is not counted")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    device = resolve_device(given.device)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runs = runs_of(noise((3, given.side, given.side), max(2 * given.ipc, 128)), given, folder)
        for run in runs.values():
            stack.enter_context(run.running())
        for number in range(given.steps + 1):
            for kind, run in runs.items():
                began = clock()
                run.step()
                took = clock() - began
                print(f"{kind}, step {number}: {took:.3f} s", flush=True)
                if number:
                    seconds.setdefault(kind, []).append(took)
    line = {
        **{name: getattr(given, name) for name in ("ipc", "nested", "steps", "precision")},
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "machine": describe_hardware(device),
    }
    for kind, own in seconds.items():
        print(f"{kind}, median of {len(own)}: {statistics.median(own):.3f} s")
    if given.out is not None:
        jsonl.append(given.out, line)
    return line


if __name__ == "__main__":
    main()

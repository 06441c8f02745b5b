"""Memory and time of a step on a large source, by size: `python benchmarks/large.py --folder DIR`.

Makes a packed source of random 64x64 images in a temporary folder below DIR (12,288 bytes an image: 1,280,000 take 15.7 GB),
streamed, and runs steps on it, each setting in a separate process. Resident memory has two parts: RssAnon, the process's own,
and RssFile, pages of files (libraries, the images) that the system may reclaim at any time. Peaks are sampled every 20 ms.
Seconds are wall-clock and processor time; on a busy machine only the latter is reliable.

A smaller source is the first part of the file under other labels. Writes a JSON line a setting, and a plot of the sweeps.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Peak, clocked, resident

from atom_plugin.datasets import SourceData, Split
from atom_plugin.datasets.mapped import MappedImages
from atom_plugin.datasets.packed import FILE_NAME, Contents, read_header
from atom_plugin.datasets.packed_writer import Packer
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.distiller import Distiller
from atom_plugin.runtime.device import processor
from atom_plugin.runtime.versions import package_versions

SHAPE, BLOCK, TESTED = (3, 64, 64), 4096, 10
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Setting:
    classes: int
    images: int
    ipc: int


def sweeps(classes: int, images: int) -> dict[str, list[Setting]]:
    """One size at a time grows; then the whole source at IPC 1 and 10."""
    few = min(100, classes)
    return {
        "images": [Setting(classes=few, images=images // part, ipc=1) for part in (16, 4, 1)],
        "ipc": [Setting(classes=few, images=images, ipc=ipc) for ipc in (1, 5, 10)],
        "classes": [Setting(classes=k, images=images, ipc=1) for k in (few // 10, few, classes)],
        "whole": [Setting(classes=classes, images=images, ipc=ipc) for ipc in (1, 10)],
    }


def generate(folder: Path, classes: int, images: int) -> dict[str, Any]:
    """A packed source of random pixels: one random block, in which every repetition flips other bits."""
    start = time.perf_counter()
    labels = np.arange(images) * classes // images
    contents = Contents(
        class_names=tuple(f"class {k}" for k in range(classes)),
        train_labels=labels.tolist(),
        test_labels=[0] * TESTED,
        image_shape=SHAPE,
    )
    block = np.random.default_rng(0).integers(0, 256, (BLOCK, *SHAPE), dtype=np.uint8)
    with Packer(folder / "unfinished", contents) as packer:
        while packer.done < contents.count:
            packer.put((block ^ np.uint8(packer.done // BLOCK % 256))[: contents.count - packer.done])
        packer.finish(folder / FILE_NAME)
    return {
        "sweep": "generate",
        "images": images,
        "bytes": contents.pixel_bytes,
        "seconds": time.perf_counter() - start,
    }


def first_part(folder: Path, setting: Setting) -> SourceData:
    """The first images of the file as a source of ``setting.classes`` classes."""
    header = read_header(folder / FILE_NAME)

    def split(count: int) -> Split:
        mapped = MappedImages(folder / FILE_NAME, offset=header.offset, count=count, image_shape=SHAPE)
        labels = torch.arange(count) * setting.classes // count
        return Split(images=mapped.tensor, labels=labels, mapped=mapped)

    return SourceData(
        name="random",
        train=split(setting.images),
        test=split(TESTED),
        class_names=tuple(f"class {k}" for k in range(setting.classes)),
        fingerprint="",
        mean=(0.5,) * 3,
        std=(0.29,) * 3,
        options={},
    )


def measure(folder: Path, setting: Setting, options: argparse.Namespace) -> dict[str, Any]:
    """Steps under one setting, and the reading of their real batches alone."""
    torch.set_num_threads(options.threads)
    before, peak = resident(), Peak()
    peak.start()
    data = first_part(folder, setting)
    budget = {} if options.memory_budget is None else {"memory_budget": options.memory_budget}
    config = DistillConfig.from_recipe(
        "atom",
        ipc=setting.ipc,
        image_shape=SHAPE,
        real_batch=options.real_batch,
        zca=False,
        network={"width": options.width, "normalisation": "instance"},
        **budget,
    )
    distiller = Distiller(config, data, device=options.device)
    with distiller.running():
        distiller.step()  # warms up
        steps = [clocked(distiller.step)[:2] for _ in range(options.steps)]
    during = peak.stop()
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(setting.images, (setting.classes * options.real_batch,), generator=generator)
    reads = [clocked(lambda: data.train.rows(rows))[:2] for _ in range(options.steps)]
    return {
        **vars(setting),
        "source_mib": setting.images * data.train.images[0].numel() / MIB,
        "batch_mib": len(rows) * data.train.images[0].numel() / MIB,
        "before_mib": before,
        "grown_mib": {name: during[name] - before[name] for name in before},
        "step": spread(steps),
        "read": spread(reads),
    }


def spread(times: list[tuple[float, float]]) -> dict[str, float]:
    wall, processor = zip(*times, strict=True)
    return {
        "n": len(times),
        "wall_median": statistics.median(wall),
        "wall_min": min(wall),
        "wall_max": max(wall),
        "processor_median": statistics.median(processor),
    }


def in_a_process(work: Callable[..., dict[str, Any]], *arguments: object) -> dict[str, Any]:
    """Forked, so that libraries are loaded once and memory is counted from the fork on."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(work(*arguments)))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()


def plot(results: dict[Setting, dict[str, Any]], grown: dict[str, list[Setting]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(grown), figsize=(10, 5.5), sharey="row", layout="constrained")
    for column, (name, settings) in enumerate(grown.items()):
        found = [results[setting] for setting in settings]
        places = [getattr(setting, name) for setting in settings]
        fixed = [f"{getattr(settings[0], other):,} {other}" for other in vars(settings[0]) if other != name]
        memory, seconds = axes[:, column]
        for kind in ("RssAnon", "RssFile"):
            memory.plot(places, [result["grown_mib"][kind] for result in found], "o-", label=kind)
        memory.plot(places, [result["source_mib"] for result in found], "k:", label="the source's pixels")
        seconds.plot(places, [result["step"]["processor_median"] for result in found], "o-", label="step")
        seconds.plot(places, [result["read"]["processor_median"] for result in found], "s-", label="reading alone")
        memory.set_title(f"{name} grow\n({', '.join(fixed)})", fontsize=9)
        seconds.set_xlabel(name)
        for axis in (memory, seconds):
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_xticks(places, [f"{place:,}" for place in places])
            axis.set_xticks([], minor=True)
            axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("MiB above the libraries")
    axes[1, 0].set_ylabel("processor seconds")
    axes[0, 0].legend(fontsize=8)
    axes[1, 0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="folder in which the source is made"
    )
    parser.add_argument("--images", type=int, default=1_280_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--real-batch", type=int, default=8)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--memory-budget", type=int, help="bytes for one pass of classes; default: all in one pass")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="+", default=["images", "ipc", "classes", "whole"], help="which sweeps")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/large.jsonl"))
    parser.add_argument("--plot", type=Path, default=Path("docs/images/large-sources.png"))
    options = parser.parse_args()
    about = {
        "machine": {"processor": processor(), "cores": len(os.sched_getaffinity(0))},
        "options": {name: value for name, value in vars(options).items() if not isinstance(value, Path)},
        "versions": package_versions(),
    }
    wanted = {name: found for name, found in sweeps(options.classes, options.images).items() if name in options.only}
    grown = {name: found for name, found in wanted.items() if name != "whole"}
    results: dict[Setting, dict[str, Any]] = {}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as made, options.out.open("w") as out:

        def record(result: dict[str, Any]) -> None:
            print(json.dumps({**result, **about}), file=out, flush=True)
            print(json.dumps(result), file=sys.stderr)

        record(in_a_process(generate, Path(made), options.classes, options.images))
        for name, settings in wanted.items():
            for setting in settings:
                if setting not in results:
                    results[setting] = in_a_process(measure, Path(made), setting, options)
                    record({"sweep": name, **results[setting]})
            if all(setting in results for found in grown.values() for setting in found):
                plot(results, grown, options.plot)


if __name__ == "__main__":
    main()

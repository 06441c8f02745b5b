"""One nested set cut to fewer images per class, against sets made for each: `python benchmarks/any_ipc.py`.

Compares the nested set's prefixes with a set distilled for each count at equal steps, the prefixes of a plain set, and real
images by herding. Writes a line of JSON per count, kind and seed to --out; accuracies are on the validation images, which no
set saw.

    python benchmarks/any_ipc.py --out runs/any-ipc.jsonl                       # digits, 10 images per class
    python benchmarks/any_ipc.py --data cifar.tar.xz --ipc 50 --iterations 1000 --epochs 300 --out runs/any-ipc-cifar.jsonl
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from images import load_images
from together import raised_or

from atom_plugin.datasets import SourceData
from atom_plugin.datasets.validation import hold_out
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.loop import distill
from atom_plugin.distillation.select_config import SelectConfig
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.evaluation import network_seed
from atom_plugin.evaluation.cuda_training import suits, train_together
from atom_plugin.evaluation.training import TrainConfig, TrainingRun, accuracy, train
from atom_plugin.runtime import jsonl
from atom_plugin.runtime.device import describe_hardware, resolve_device, resolve_precision
from atom_plugin.runtime.picture_files import write_figure
from atom_plugin.store.synthetic_set import SyntheticSet

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's
MARKERS = "osD^vP"
Sets = Callable[[SourceData, argparse.Namespace, int], Iterator[tuple[str, int, SyntheticSet, float]]]


def sets(data: SourceData, given: argparse.Namespace, seed: int) -> Iterator[tuple[str, int, SyntheticSet, float]]:
    """Kind, images per class, the set, and the seconds of its distillation."""

    def made(ipc: int, nested: str | None, image_lr: float = 1.0) -> tuple[SyntheticSet, float]:
        config = DistillConfig.from_recipe(
            "atom",
            ipc=ipc,
            image_shape=data.image_shape,
            seed=seed,
            iterations=given.iterations,
            image_init="herding",
            nested=nested,
            image_lr=image_lr,
        )
        began = time.perf_counter()
        return distill(config, data, device=given.device), time.perf_counter() - began

    nested = {rate: made(given.ipc, "some", rate) for rate in given.nested_rates}
    plain, plain_seconds = made(given.ipc, None)
    chosen = SelectConfig.from_recipe("atom", ipc=given.ipc, image_shape=data.image_shape, method="herding", seed=seed)
    herding = selected_set(chosen, data, preprocessing=plain.preprocessing, device=given.device)
    for count in next(iter(nested.values()))[0].prefixes:
        for rate, (held, seconds) in nested.items():
            yield "nested, cut" if rate == 1 else f"nested, rate {rate:g}, cut", count, held.first(count), seconds
        yield "plain, cut", count, plain.first(count), plain_seconds
        yield "made for it", count, *((plain, plain_seconds) if count == given.ipc else made(count, None))
        yield "herding", count, herding.first(count), 0.0


def main() -> None:
    measure(arguments(__doc__, rates=True), sets)


def draw(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Accuracy over images per class, a line for each kind of set: the mean over sets."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    counts = sorted({line["ipc"] for line in lines})
    for kind, colour, marker in zip(dict.fromkeys(line["kind"] for line in lines), COLOURS, MARKERS, strict=False):
        own: dict[int, list[float]] = {}
        for line in lines:
            if line["kind"] == kind:
                own.setdefault(line["ipc"], []).extend(line["accuracies"])
        means = [100 * statistics.fmean(values) for values in own.values()]
        axes.plot(list(own), means, color=colour, marker=marker, label=kind)
    axes.set_xscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_xlabel("images per class")
    axes.set_ylabel("accuracy, %")
    axes.grid(linewidth=0.3, alpha=0.6)
    axes.legend(frameon=False)
    write_figure(figure, path, force=True)


def arguments(
    description: str | None, words: Sequence[str] | None = None, *, rates: bool = False
) -> argparse.Namespace:
    """The options in ``words``, or on the command line, for a benchmark that trains on sets and tests on validation images.

    ``rates``: whether to offer several image learning rates for nested sets.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a folder, an archive of one, or .npz (default: the digits)")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--networks", type=int, default=2, help="on each set")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--chart", type=Path, help="a picture of the lines in --out")
    parser.set_defaults(nested_rates=[1.0])
    if rates:
        parser.add_argument("--nested-rates", type=float, nargs="+", help="image learning rates of the nested sets")
    return parser.parse_args(words)


def measure(given: argparse.Namespace, sets: Sets) -> None:
    """Train on each of ``sets``, append a line for each, and draw them all if asked to."""
    device = resolve_device(given.device)
    data = hold_out(load_images(given.data), 0.1)
    assert data.validation is not None
    run = TrainingRun(device=device, precision=resolve_precision("auto", device))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    training = TrainConfig(epochs=given.epochs)
    for seed in range(given.seeds):
        seeds = [network_seed(seed, repeat) for repeat in range(given.networks)]
        for count, group in itertools.groupby(sets(data, given, seed), key=lambda made: made[1]):
            made = list(group)
            network = DistillConfig.from_recipe("atom", ipc=count, image_shape=data.image_shape).network
            places = [(held, own) for _, _, held, _ in made for own in seeds]
            if suits(network, training, device):
                alike, own = zip(*places, strict=True)
                trained = [raised_or(one) for one in train_together(alike, network, training, seeds=own, run=run)]
            else:
                trained = [train(held, network, training, seed=own, run=run) for held, own in places]
            reached = [
                accuracy(one, held.preprocessing, data.validation, device=device)
                for one, (held, _) in zip(trained, places, strict=True)
            ]
            for row, (kind, _, _, seconds) in enumerate(made):
                own_share = reached[row * len(seeds) : (row + 1) * len(seeds)]
                line = {
                    "kind": kind,
                    "ipc": count,
                    "seed": seed,
                    "iterations": given.iterations,
                    "epochs": given.epochs,
                }
                about = {"source": data.name, "images": len(data.validation), "machine": describe_hardware(device)}
                jsonl.append(given.out, {**line, "seconds": seconds, "accuracies": own_share, **about})
                print(f"{kind}, IPC {count}, seed {seed}: {100 * statistics.fmean(own_share):.2f} %", flush=True)
    if given.chart:
        draw([json.loads(line) for line in given.out.read_text().splitlines()], given.chart)


if __name__ == "__main__":
    main()

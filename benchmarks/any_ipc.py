"""One nested set cut to fewer images per class, against sets made for each: `python benchmarks/any_ipc.py`.

Beside the nested set's prefixes stand a set distilled for each count at equal steps, the prefixes of a plain set, and real
images by herding. A line of JSON per count, kind and seed goes to --out; accuracies are of the validation images, which no set
saw.

    python benchmarks/any_ipc.py --out runs/any-ipc.jsonl                       # digits, 10 images per class
    python benchmarks/any_ipc.py --data cifar.tar.xz --ipc 50 --iterations 1000 --epochs 300 --out runs/any-ipc-cifar.jsonl
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from images import load_images

from atom_plugin.datasets import SourceData
from atom_plugin.datasets.validation import hold_out
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.loop import distill
from atom_plugin.distillation.select_config import SelectConfig
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.evaluation import network_seed
from atom_plugin.evaluation.training import TrainConfig, TrainingRun, accuracy, train
from atom_plugin.runtime import jsonl
from atom_plugin.runtime.device import describe_hardware, resolve_device, resolve_precision
from atom_plugin.store.synthetic_set import SyntheticSet

Sets = Callable[[SourceData, argparse.Namespace, int], Iterator[tuple[str, int, SyntheticSet, float]]]


def sets(data: SourceData, given: argparse.Namespace, seed: int) -> Iterator[tuple[str, int, SyntheticSet, float]]:
    """Kind, images per class, the set, and the seconds of the distillation that it took."""

    def made(ipc: int, nested: str | None) -> tuple[SyntheticSet, float]:
        config = DistillConfig.from_recipe(
            "atom",
            ipc=ipc,
            image_shape=data.image_shape,
            seed=seed,
            iterations=given.iterations,
            image_init="herding",
            nested=nested,
        )
        began = time.perf_counter()
        return distill(config, data, device=given.device), time.perf_counter() - began

    nested, seconds = made(given.ipc, "some")
    plain, plain_seconds = made(given.ipc, None)
    chosen = SelectConfig.from_recipe("atom", ipc=given.ipc, image_shape=data.image_shape, method="herding", seed=seed)
    herding = selected_set(chosen, data, preprocessing=plain.preprocessing, device=given.device)
    for count in nested.prefixes:
        yield "nested, cut", count, nested.first(count), seconds
        yield "plain, cut", count, plain.first(count), plain_seconds
        yield "made for it", count, *((plain, plain_seconds) if count == given.ipc else made(count, None))
        yield "herding", count, herding.first(count), 0.0


def main() -> None:
    measure(arguments(__doc__), sets)


def arguments(description: str | None, words: Sequence[str] | None = None) -> argparse.Namespace:
    """``words``, or what the command line holds, for a benchmark whose sets are trained on, and tested on validation images."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a folder, an archive of one, or .npz (default: the digits)")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--networks", type=int, default=2, help="on each set")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(words)


def measure(given: argparse.Namespace, sets: Sets) -> None:
    """Train on each of ``sets``, and append a line for each."""
    device = resolve_device(given.device)
    data = hold_out(load_images(given.data), 0.1)
    assert data.validation is not None
    run = TrainingRun(device=device, precision=resolve_precision("auto", device))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(given.seeds):
        for kind, count, held, seconds in sets(data, given, seed):
            network = DistillConfig.from_recipe("atom", ipc=count, image_shape=data.image_shape).network
            trained = (
                train(held, network, TrainConfig(epochs=given.epochs), seed=network_seed(seed, repeat), run=run)
                for repeat in range(given.networks)
            )
            reached = [accuracy(one, held.preprocessing, data.validation, device=device) for one in trained]
            line = {"kind": kind, "ipc": count, "seed": seed, "iterations": given.iterations, "epochs": given.epochs}
            about = {"source": data.name, "images": len(data.validation), "machine": describe_hardware(device)}
            jsonl.append(given.out, {**line, "seconds": seconds, "accuracies": reached, **about})
            print(f"{kind}, IPC {count}, seed {seed}: {100 * statistics.fmean(reached):.2f} %", flush=True)


if __name__ == "__main__":
    main()

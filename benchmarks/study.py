"""Choices compared on images held out of the training images: `python benchmarks/study.py CELLS.toml --data FILE --out FOLDER`.

A cell is one set and how it is made: by distillation, or by selection where it names a `method`. A tenth of the training images
is held out of all sets. The networks of all sets of one size train together, in one graph on a GPU, and are tested on the
held-out images, which choices are made on, and on the test images, which none may be made on. Sets and one JSON line each,
written as soon as known, stand in --out; a second call makes only the sets that are not there. On a CPU networks train in turn,
on the set's soft labels where it has some. --memory measures the steps of each cell and the memory that they ask for.

    [trainings.short]        # options of TrainConfig
    batch_size = 64
    epochs = 300

    [network]                # of the networks that are tested: fields of ConvNetConfig (default: normalisation by size)
    normalisation = "instance"

    [pools.five]             # trained networks for the cells that say pool = "five"
    networks = 5             # and every (epochs between kept ones), and options of TrainConfig
    epochs = 10

    [cells."rate 4"]         # options of DistillConfig or SelectConfig, and seeds
    factor = 2
    image_lr = 4.0
    seeds = [0, 1, 2]
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from common import peak_gigabytes
from images import load_images
from torch import nn

from atom_plugin import store
from atom_plugin.datasets import SourceData, Split
from atom_plugin.datasets.validation import hold_out
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.loop import Progress, distill
from atom_plugin.distillation.select_config import SelectConfig
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.errors import AtomError, DivergenceError
from atom_plugin.evaluation import network_seed
from atom_plugin.evaluation.cuda_training import suits, train_together
from atom_plugin.evaluation.pool_training import PoolConfig, make_pool
from atom_plugin.evaluation.training import TrainConfig, TrainingRun, accuracy, train
from atom_plugin.models.convnet import ConvNet, ConvNetConfig
from atom_plugin.models.network_pool import NetworkPool
from atom_plugin.runtime import jsonl
from atom_plugin.runtime.device import describe_hardware, resolve_device, resolve_precision
from atom_plugin.runtime.toml import read_toml
from atom_plugin.store.synthetic_set import SyntheticSet

LINES = jsonl.LineFormat(name="a file of a study", key="cell")


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """A set to make: ``name`` is its cell's, ``options`` are fields of its config."""

    name: str
    seed: int
    options: Mapping[str, Any]

    @property
    def key(self) -> str:
        """A name for its file."""
        return f"{self.name}, seed {self.seed}".replace("/", "-").replace(" ", "_")

    def make(
        self, data: SourceData, device: str, pools: Path, on_progress: Callable[[Progress], object] | None = None
    ) -> SyntheticSet:
        """The set; a pool that it names is in the folder ``pools``."""
        kind = SelectConfig if "method" in self.options else DistillConfig
        options = {"recipe": "atom", "ipc": 10, **self.options}
        recipe = options.pop("recipe")
        known = {each.name for each in fields(kind)} | {"zca"}
        options = {name: value for name, value in options.items() if name in known}
        if "pool" in options:
            options["pool"] = str(pools / f"{options['pool']}.pool")
        config = kind.from_recipe(recipe, image_shape=data.image_shape, seed=self.seed, **options)
        if isinstance(config, SelectConfig):
            return selected_set(config, data, device=device)
        return distill(config, data, device=device, on_progress=on_progress)


def cells_of(study: Mapping[str, Any]) -> list[Cell]:
    """The cells, each seed one and lower seeds first, with the study's `defaults` for what they do not say."""
    found = []
    for name, own in study["cells"].items():
        options = {**study.get("defaults", {}), **own}
        seeds = options.pop("seeds", [0])
        found += [Cell(name=name, seed=seed, options=options) for seed in seeds]
    return sorted(found, key=lambda cell: cell.seed)


@dataclass(frozen=True, kw_only=True)
class Judging:
    """How sets are tested: by so many ``networks``, fields of whose ConvNetConfig are in ``network``."""

    training: TrainConfig
    network: Mapping[str, Any]
    networks: int


def _training(options: Mapping[str, Any]) -> TrainConfig:
    return TrainConfig.from_recipe(
        **{"name": options.get("recipe", "standard"), **{k: v for k, v in options.items() if k != "recipe"}}
    )


def pool_of(data: SourceData, options: Mapping[str, Any], device: torch.device) -> NetworkPool:
    """Networks trained on standardised images: ``networks`` and ``network`` of ``options``, the others are TrainConfig's."""
    training = dict(options)
    config = DistillConfig.from_recipe(
        "atom", ipc=10, image_shape=data.image_shape, zca=False, network=training.pop("network", None)
    )
    run = TrainingRun(device=device, precision=resolve_precision("auto", device))
    counts = {"networks": training.pop("networks"), "every": training.pop("every", 1)}
    chosen = PoolConfig(network=config.network, training=_training(training), **counts)
    return make_pool(data, config.fit_preprocessing(data), chosen, run=run)


def judged(
    sets: Mapping[Cell, SyntheticSet],
    judges: Mapping[str, Split],
    judging: Judging,
    device: torch.device,
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Each set's accuracies on each of ``judges``, of the networks of ``judging``.

    On a GPU sets of one size train together, without soft labels; on a CPU each set's networks in turn.
    """
    run = TrainingRun(device=device, precision=resolve_precision("auto", device))
    training = judging.training
    together = suits(ConvNetConfig(), training, device)
    sizes = {cell: (held.decoded_count, "" if together else cell.key) for cell, held in sets.items()}
    for (size, _), group in itertools.groupby(sorted(sets, key=sizes.__getitem__), key=sizes.__getitem__):
        cells = list(group)
        places = [(cell, repeat) for cell in cells for repeat in range(judging.networks)]
        chosen = ConvNetConfig(**{"normalisation": "batch" if size >= 100 else "instance", **judging.network})
        seeds = [network_seed(cell.seed, repeat) for cell, repeat in places]
        held = [sets[cell] for cell, _ in places]
        began = time.perf_counter()
        trained = (
            train_together(held, chosen, training, seeds=seeds, run=run)
            if together
            else [_trained(one, chosen, training, seed, run) for one, seed in zip(held, seeds, strict=True)]
        )
        seconds = time.perf_counter() - began
        reached: dict[Cell, dict[str, list[float]]] = {cell: {name: [] for name in judges} for cell in cells}
        for (cell, _), network in zip(places, trained, strict=True):
            if isinstance(network, ConvNet):
                for name, split in judges.items():
                    found = accuracy(network, sets[cell].preprocessing, split, device=device)
                    reached[cell][name].append(found)
        for cell in cells:
            yield cell, {**reached[cell], "training seconds of all": seconds, "trained": len(places)}


def _trained(
    held: SyntheticSet, network: ConvNetConfig, training: TrainConfig, seed: int, run: TrainingRun
) -> nn.Module | DivergenceError:
    try:
        return train(held, network, training, seed=seed, run=run)
    except DivergenceError as error:
        return error


def steps_of(cell: Cell, data: SourceData, device: str, pools: Path, steps: int) -> dict[str, Any]:
    """Seconds of a step, of processor time and by the clock, and the peak of memory, in GB, of a process of its own.

    Also what the process holds before the first step. To be called once in a process.
    """
    options = {**cell.options, "iterations": steps + 1}
    stamps: list[tuple[float, float]] = []
    before = peak_gigabytes(device)
    replace(cell, options=options).make(
        data, device, pools, on_progress=lambda _: stamps.append((time.perf_counter(), time.process_time()))
    )
    wall, processor = ((last - first) / steps for first, last in zip(stamps[0], stamps[-1], strict=True))
    return {
        "seconds a step": wall,
        "processor seconds a step": processor,
        "GB before": before,
        "GB at most": peak_gigabytes(device),
    }


def measure(given: argparse.Namespace, cells: Iterable[Cell], data: SourceData, lines: Path, steps: int = 3) -> None:
    """A line of :func:`steps_of` for each distilled cell of the lowest seed, each measured in a process of its own.

    Processes for a CPU are forked, so that all begin with the same memory; one that uses CUDA must not be.
    """
    first: dict[str, Cell] = {}
    for cell in cells:
        if "method" not in cell.options:
            first.setdefault(cell.name, cell)
    context = multiprocessing.get_context("fork" if resolve_device(given.device).type == "cpu" else "spawn")
    for cell in first.values():
        with ProcessPoolExecutor(1, mp_context=context) as process:
            found = process.submit(steps_of, cell, data, given.device, given.out, steps).result()
        jsonl.append(lines, {"cell": cell.key, "options": dict(cell.options), "steps": steps, **found})
        print(f"{cell.key}: {found}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", type=Path)
    parser.add_argument("--data", help="a folder, an archive of one, or .npz (default: the digits)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--networks", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=60.0, help="start no set that would end after these")
    parser.add_argument(
        "--sets-only", action="store_true", help="make the sets; a later call tests them, here or elsewhere"
    )
    parser.add_argument("--memory", action="store_true", help="measure time and memory of steps; make no set")
    given = parser.parse_args()
    study, began = read_toml(given.cells), time.perf_counter()
    device = resolve_device(given.device)
    data = hold_out(load_images(given.data), 0.1)
    assert data.validation is not None
    given.out.mkdir(parents=True, exist_ok=True)
    lines, longest = given.out / "study.jsonl", 0.0
    sets: dict[Cell, SyntheticSet] = {}
    judges = {"validation": data.validation, "test": data.test}
    about = {"device": describe_hardware(device), "images": {name: len(split) for name, split in judges.items()}}
    for name, options in study.get("pools", {}).items():
        if not (path := given.out / f"{name}.pool").exists():
            started = time.perf_counter()
            pool = pool_of(data, options, device)
            seconds = time.perf_counter() - started
            pool.save(path)
            jsonl.append(
                lines, {"cell": name, "pool": options, "seconds": seconds, "accuracies": list(pool.accuracies), **about}
            )
            print(f"pool {name}: {seconds:.1f} s, {pool.accuracies}", file=sys.stderr, flush=True)
    if given.memory:
        measure(given, cells_of(study), data, lines)
        return
    for cell in cells_of(study):
        path = given.out / f"{cell.key}.h5"
        if not path.exists():
            started, worked = time.perf_counter(), time.process_time()
            if started - began + longest > 60 * given.minutes:
                print(f"{cell.key}: left out, no time left", file=sys.stderr)
                continue
            try:
                made = cell.make(data, given.device, given.out)
            except AtomError as error:
                jsonl.append(lines, {"cell": cell.key, "error": str(error)})
                continue
            seconds = time.perf_counter() - started
            longest = max(longest, seconds)
            store.write(made, path)
            taken = {"seconds": seconds, "processor seconds": time.process_time() - worked}
            jsonl.append(lines, {"cell": cell.key, "options": dict(cell.options), **taken, **about})
            print(f"{cell.key}: {seconds:.1f} s", file=sys.stderr, flush=True)
        sets[cell] = store.read(path)
    for name, options in ({} if given.sets_only else study["trainings"]).items():
        judging = Judging(training=_training(options), network=study.get("network", {}), networks=given.networks)
        for cell, result in judged(sets, judges, judging, device):
            jsonl.append(lines, {"cell": cell.key, "training": {name: options}, **result, **about})
            shown = "; ".join(f"{on} {' '.join(f'{value:.4f}' for value in result[on])}" for on in judges)
            print(f"{cell.key}, {name}: {shown}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

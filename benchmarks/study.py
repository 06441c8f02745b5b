"""Choices compared on images held out of the training images: `python benchmarks/study.py CELLS.toml --data FILE --out FOLDER`.

A cell is one set and how it is made: by distillation, or by selection where it names a `method`. A tenth of the training images
is held out of all sets. The networks of all sets of one size train together, in one graph on a GPU, and are tested on the
held-out images, which choices are made on, and on the test images, which none may be made on. Sets and one JSON line each,
written as soon as known, stand in --out; a second call makes only the sets that are not there.

    [trainings.short]        # options of TrainConfig
    batch_size = 64
    epochs = 300

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
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from images import load_images

from atom_plugin import store
from atom_plugin.datasets import SourceData, Split
from atom_plugin.datasets.validation import hold_out
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.loop import distill
from atom_plugin.distillation.select_config import SelectConfig
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.errors import AtomError
from atom_plugin.evaluation import network_seed
from atom_plugin.evaluation.cuda_training import train_together
from atom_plugin.evaluation.pool_training import PoolConfig, make_pool
from atom_plugin.evaluation.training import TrainConfig, TrainingRun, accuracy
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

    def make(self, data: SourceData, device: str, pools: Path) -> SyntheticSet:
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
        return distill(config, data, device=device)


def cells_of(study: Mapping[str, Any]) -> list[Cell]:
    """The cells, each seed one and lower seeds first, with the study's `defaults` for what they do not say."""
    found = []
    for name, own in study["cells"].items():
        options = {**study.get("defaults", {}), **own}
        seeds = options.pop("seeds", [0])
        found += [Cell(name=name, seed=seed, options=options) for seed in seeds]
    return sorted(found, key=lambda cell: cell.seed)


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
    training: TrainConfig,
    networks: int,
    device: torch.device,
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Each set's accuracies on each of ``judges``, of ``networks`` networks each; sets of one size train together."""
    run = TrainingRun(device=device, precision=resolve_precision("auto", device))
    sizes = {cell: held.decoded_count for cell, held in sets.items()}
    for size, group in itertools.groupby(sorted(sets, key=sizes.__getitem__), key=sizes.__getitem__):
        cells = list(group)
        places = [(cell, repeat) for cell in cells for repeat in range(networks)]
        began = time.perf_counter()
        trained = train_together(
            [sets[cell] for cell, _ in places],
            ConvNetConfig(normalisation="batch" if size >= 100 else "instance"),
            training,
            seeds=[network_seed(cell.seed, repeat) for cell, repeat in places],
            run=run,
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
    for cell in cells_of(study):
        path = given.out / f"{cell.key}.h5"
        if not path.exists():
            started = time.perf_counter()
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
            jsonl.append(lines, {"cell": cell.key, "options": dict(cell.options), "seconds": seconds, **about})
            print(f"{cell.key}: {seconds:.1f} s", file=sys.stderr, flush=True)
        sets[cell] = store.read(path)
    for name, options in ({} if given.sets_only else study["trainings"]).items():
        training = _training(options)
        for cell, result in judged(sets, judges, training, given.networks, device):
            jsonl.append(lines, {"cell": cell.key, "training": {name: options}, **result, **about})
            shown = "; ".join(f"{on} {' '.join(f'{value:.4f}' for value in result[on])}" for on in judges)
            print(f"{cell.key}, {name}: {shown}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

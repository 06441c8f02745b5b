"""Evaluation networks trained together, against the same ones in turn: `python benchmarks/together.py`.

Both train the same ConvNets, from the same seeds, on randomly selected images of the source; only the order differs, so that
accuracies agree up to rounding. On a GPU "together" is one graph. Prints JSON: seconds and accuracies of both, and how much of
the time in turn the convolutions alone would take at the rate of a large matrix product (float32 on a CPU, bfloat16 on a GPU).

    python benchmarks/together.py                                    # digits, IPC 10, 5 networks
    python benchmarks/together.py --data cifar.npz --epochs 20
    python benchmarks/together.py --device cuda --data cifar.tar.xz --networks 20 --epochs 1000
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from common import clocked, matrix_rate, run_script, surroundings
from images import load_images

from atom_plugin.datasets import SourceData
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.select_config import SelectConfig
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.errors import DivergenceError
from atom_plugin.evaluation.cuda_training import train_together
from atom_plugin.evaluation.training import TrainConfig, TrainingRun, accuracy, train
from atom_plugin.models.convnet import ConvNet, default_depth
from atom_plugin.runtime.device import resolve_device, resolve_precision
from atom_plugin.store.synthetic_set import SyntheticSet


def training_flop(images: int, width: int, shape: tuple[int, int, int]) -> float:
    """The convolutions of one epoch of one ConvNet: forward, and twice that backward, less the pixels' own gradient."""
    channels, side, flop = shape[0], shape[1], 0.0
    for depth in range(default_depth(side)):
        forward = 2.0 * side * side * channels * 9 * width
        flop += forward * (3 if depth else 2)
        side, channels = side // 2, width
    return images * flop


def raised_or(trained: ConvNet | DivergenceError) -> ConvNet:
    """The network, or its error raised."""
    if isinstance(trained, DivergenceError):
        raise trained
    return trained


def compare(
    chosen: SyntheticSet, data: SourceData, config: TrainConfig, networks: int, device: torch.device, *, turns: int
) -> dict[str, Any]:
    """``turns`` of the ``networks`` are trained one after the other, all of them together."""
    network = DistillConfig.from_recipe("atom", ipc=1, image_shape=data.image_shape).network
    run, seeds = TrainingRun(device=device, precision=resolve_precision("auto", device)), list(range(networks))

    def alone() -> list[torch.nn.Module]:
        return [train(chosen, network, config, seed=seed, run=run) for seed in seeds[:turns]]

    def side_by_side() -> list[torch.nn.Module]:
        trained = train_together([chosen] * networks, network, config, seeds=seeds, run=run)
        return [raised_or(one) for one in trained]

    # Libraries load and choose in the first steps; neither side shall pay for that.
    train(chosen, network, TrainConfig(epochs=1), seed=0, run=run)
    result: dict[str, Any] = {"networks": networks, "epochs": config.epochs, "images": len(chosen), "turns": turns}
    ways = {"together": side_by_side, "in turn": alone}
    for name, way in ways.items():
        seconds, worked, trained = clocked(way)
        reached = [accuracy(one, chosen.preprocessing, data.test, device=device) for one in trained]
        result[name] = {
            "seconds": seconds,
            "processor seconds": worked,
            "seconds per network": seconds / len(trained),
            "accuracies": reached,
            "mean": statistics.fmean(reached),
        }
    flop = config.epochs * training_flop(len(chosen), network.width, data.image_shape)
    bound = flop / 1e9 / matrix_rate(device.type)
    result["convolutions of a network, at the rate of a matrix product"] = {"gflop": flop / 1e9, "seconds": bound}
    result["ratio"] = result["in turn"]["seconds per network"] / result["together"]["seconds per network"]
    return result


def main(arguments: Sequence[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder, archive or .npz (default: the digits)")
    parser.add_argument("--networks", type=int, default=5)
    parser.add_argument("--turns", type=int, help="how many of them are trained in turn as well (default: all)")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    device, data = resolve_device(given.device), load_images(given.data)
    selection = SelectConfig.from_recipe("atom", ipc=given.ipc, image_shape=data.image_shape, zca=False)
    turns = min(given.turns or given.networks, given.networks)
    config = TrainConfig(epochs=given.epochs)
    result = compare(selected_set(selection, data), data, config, given.networks, device, turns=turns)
    return {**result, "source": data.name, **surroundings(given.device, torch.get_num_threads())}


if __name__ == "__main__":
    run_script(main)

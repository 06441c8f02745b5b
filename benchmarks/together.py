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
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from images import load_images

from atom_plugin.datasets import SourceData
from atom_plugin.distillation.assembly import selected_set
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.errors import AtomError
from atom_plugin.evaluation.cuda_training import train_together
from atom_plugin.evaluation.training import TrainConfig, accuracy, train
from atom_plugin.models.convnet import ConvNet, default_depth
from atom_plugin.runtime.device import resolve_device, resolve_precision
from atom_plugin.runtime.versions import package_versions
from atom_plugin.store.synthetic_set import SyntheticSet

Result = TypeVar("Result")


def clocked(run: Callable[[], Result], device: torch.device) -> tuple[float, float, Result]:
    """Seconds by the clock, seconds of all processors (what a busy machine leaves alone), and the result."""
    started, worked = time.perf_counter(), time.process_time()
    result = run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started, time.process_time() - worked, result


def matrix_rate(device: torch.device) -> float:
    """FLOP/s of a large matrix product."""
    a = torch.randn(2048, 2048, device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    out = torch.empty_like(a)
    return 2 * 2048**3 / min(clocked(lambda: torch.mm(a, a, out=out), device)[0] for _ in range(5))


def training_flop(images: int, width: int, shape: tuple[int, int, int]) -> float:
    """The convolutions of one epoch of one ConvNet: forward, and twice that backward, less the pixels' own gradient."""
    channels, side, flop = shape[0], shape[1], 0.0
    for depth in range(default_depth(side)):
        forward = 2.0 * side * side * channels * 9 * width
        flop += forward * (3 if depth else 2)
        side, channels = side // 2, width
    return images * flop


def compare(
    chosen: SyntheticSet, data: SourceData, config: TrainConfig, networks: int, device: torch.device, *, turns: int
) -> dict[str, Any]:
    """``turns`` of the ``networks`` are trained one after the other, all of them together."""
    network = DistillConfig.from_recipe("atom", ipc=1, image_shape=data.image_shape).network
    precision, seeds = resolve_precision("auto", device), list(range(networks))

    def alone() -> list[torch.nn.Module]:
        return [train(chosen, network, config, seed=seed, device=device, precision=precision) for seed in seeds[:turns]]

    def side_by_side() -> list[ConvNet]:
        return train_together([chosen] * networks, network, config, seeds=seeds, device=device, precision=precision)

    # Libraries load and choose in the first steps; neither side shall pay for that.
    train(chosen, network, TrainConfig(epochs=1), seed=0, device=device, precision=precision)
    result: dict[str, Any] = {"networks": networks, "epochs": config.epochs, "images": len(chosen), "turns": turns}
    for name, run in (("together", side_by_side), ("in turn", alone)):
        seconds, worked, trained = clocked(run, device)
        reached = [accuracy(one, chosen.preprocessing, data.test, device=device) for one in trained]
        result[name] = {
            "seconds": seconds,
            "processor seconds": worked,
            "seconds per network": seconds / len(trained),
            "accuracies": reached,
            "mean": statistics.fmean(reached),
        }
    flop = config.epochs * training_flop(len(chosen), network.width, data.image_shape)
    bound = flop / matrix_rate(device)
    result["convolutions of a network, at the rate of a matrix product"] = {"gflop": flop / 1e9, "seconds": bound}
    result["ratio"] = result["in turn"]["seconds per network"] / result["together"]["seconds per network"]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder, archive or .npz (default: the digits)")
    parser.add_argument("--networks", type=int, default=5)
    parser.add_argument("--turns", type=int, help="how many of them are trained in turn as well (default: all)")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    try:
        device, data = resolve_device(given.device), load_images(given.data)
        selection = DistillConfig.from_recipe("atom", ipc=given.ipc, image_shape=data.image_shape, zca=False)
        chosen = selected_set(selection, data)
        turns = min(given.turns or given.networks, given.networks)
        result = compare(chosen, data, TrainConfig(epochs=given.epochs), given.networks, device, turns=turns)
    except AtomError as error:
        sys.exit(f"Error: {error}")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    machine = {"device": name, "threads": torch.get_num_threads(), "cores": os.cpu_count()}
    print(json.dumps({**result, "source": data.name, "machine": machine, "versions": package_versions()}, indent=2))


if __name__ == "__main__":
    main()

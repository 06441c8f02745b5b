"""Time an epoch of an evaluation network's training against a plain loop, in one run: `python benchmarks/training.py`.

Both train the same ConvNet-3 on the same random images, with the same augmentation of each image and the same optimiser. The
plain loop has torch's own operations, in float32 and channels-first; epochs of the two kinds come in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from common import matrix_rate, now, options_of, plain_features, run_script, spread, surroundings, timed
from step import CLASSES, SHAPE, forward_flop
from torch.nn import functional as F

from atom_plugin.evaluation.training import TrainConfig, TrainingRun, train
from atom_plugin.models.convnet import ConvNet, ConvNetConfig
from atom_plugin.runtime.device import resolve_device, resolve_precision
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.store.provenance import Provenance
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.augmentation import Augmentation
from atom_plugin.transforms.preprocessing import Preprocessing


def random_set(ipc: int) -> SyntheticSet:
    generator = torch.Generator().manual_seed(0)
    return SyntheticSet(
        images=torch.randn(CLASSES * ipc, *SHAPE, generator=generator),
        labels=torch.arange(CLASSES).repeat_interleave(ipc),
        class_names=tuple(f"class {k}" for k in range(CLASSES)),
        preprocessing=Preprocessing(mean=torch.full((3,), 0.5), std=torch.full((3,), 0.25), image_shape=SHAPE),
        provenance=Provenance(method="random", seed=0),
    )


def plain_logits(network: ConvNet, images: torch.Tensor) -> torch.Tensor:
    embedding = plain_features(network, images)[1]
    return F.linear(embedding, network.classifier.weight, network.classifier.bias)


def plain_epochs(
    held: SyntheticSet, network_config: ConvNetConfig, config: TrainConfig, device: torch.device
) -> Callable[[], None]:
    """A call that trains one more epoch."""
    network = network_config.build(SHAPE, CLASSES, generator=generator_for(0, "network")).to(device).train()
    images, labels = held.images.to(device), held.labels.to(device)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    augmentation, generator = Augmentation(strategy=config.augmentation), generator_for(0, "train")

    def epoch() -> None:
        for chosen in torch.randperm(len(labels), generator=generator).split(config.batch_size):
            index = chosen.to(device)
            logits = plain_logits(network, augmentation.per_sample(images[index], generator))
            optimizer.zero_grad()
            F.cross_entropy(logits, labels[index]).backward()
            optimizer.step()

    return epoch


def main(arguments: Sequence[str]) -> dict[str, Any]:
    parser = options_of(__doc__, repeats=5)
    parser.add_argument("--ipc", type=int, default=10)
    options = parser.parse_args(arguments)
    where = surroundings(options.device, options.threads)
    torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    held, network_config = random_set(options.ipc), ConvNetConfig(width=8 if options.quick else 128)
    per_turn = 2 if options.quick else 3  # the first of a turn of ours warms up: memory goes back when training ends
    config = TrainConfig(epochs=per_turn)
    plain = plain_epochs(held, network_config, config, device)
    precision = resolve_precision("auto", device)
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    for repeat in range(options.repeats + 1):
        its = timed(plain)
        ends: list[float] = []
        run = TrainingRun(device=device, precision=precision, on_epoch=lambda _: ends.append(now()))  # noqa: B023
        train(held, network_config, config, seed=0, run=run)
        if repeat:  # the first of each warms up
            seconds["plain"].append(its)
            seconds["ours"].append(ends[-1] - ends[-2])
    measured = {name: spread(values) for name, values in seconds.items()}
    return {
        "setting": {
            "ipc": options.ipc,
            "images": len(held),
            "batch": config.batch_size,
            "normalisation": network_config.normalisation,
            "precision": precision,
        },
        **where,
        "seconds": measured,
        # Backward: the gradients of the maps, and of the weights.
        "gflop": {"forward and backward": 3 * len(held) * forward_flop(network_config.width) / 1e9},
        "matrix_gflop_per_s": matrix_rate(options.device, 256 if options.quick else 2048),
        "ratio": measured["plain"]["median"] / measured["ours"]["median"],
    }


if __name__ == "__main__":
    run_script(main)

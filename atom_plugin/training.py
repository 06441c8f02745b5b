"""Train fresh networks on a set, and test them: what a synthetic set is judged by."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from atom_plugin.augmentation import DEFAULT_STRATEGY, Augmentation
from atom_plugin.device import autocast
from atom_plugin.errors import ConfigError, DivergenceError
from atom_plugin.memory import reuse_freed_memory
from atom_plugin.networks import ConvNetConfig
from atom_plugin.preprocessing import Preprocessing
from atom_plugin.randomness import generator_for
from atom_plugin.sources import Split
from atom_plugin.synthetic_set import SyntheticSet

_TEST_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The field's evaluation: SGD, momentum, weight decay, the learning rate times 0.1 at half, siamese augmentation.

    DataDAM's code trains 1,800 epochs at batch 64, DM's 1,000 at batch 256. Each image of a batch is augmented on its own.
    """

    epochs: int = 800
    batch_size: int = 256
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augmentation: str = DEFAULT_STRATEGY

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.lr > 0:
            raise ConfigError(f"lr must be above 0, not {self.lr}")
        Augmentation(strategy=self.augmentation)


def train(
    synthetic_set: SyntheticSet,
    network_config: ConvNetConfig,
    config: TrainConfig,
    *,
    seed: int,
    device: torch.device,
    precision: str = "float32",
    on_epoch: Callable[[int], object] | None = None,
) -> nn.Module:
    """A fresh network of ``network_config``, trained on the set. Raises DivergenceError where the loss blows up."""
    shape, classes = synthetic_set.preprocessing.image_shape, len(synthetic_set.class_names)
    network = network_config.build(shape, classes, generator=generator_for(seed, "network"))
    images, labels = synthetic_set.images.to(device), synthetic_set.labels.to(device)

    def batch(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        index = chosen.to(device)
        return images[index], labels[index]

    return _fit(network, batch, len(labels), config, seed=seed, device=device, precision=precision, on_epoch=on_epoch)


def train_on_real(
    real: Split,
    preprocessing: Preprocessing,
    classes: int,
    network_config: ConvNetConfig,
    config: TrainConfig,
    *,
    seed: int,
    device: torch.device,
    precision: str = "float32",
    on_epoch: Callable[[int], object] | None = None,
) -> nn.Module:
    """As :func:`train`, on all of ``real``, uint8 images of ``classes`` classes.

    A batch is preprocessed when its turn comes: memory holds the uint8 images and one float32 batch, whatever their number.
    """
    network = network_config.build(preprocessing.image_shape, classes, generator=generator_for(seed, "network"))
    prepare = preprocessing.to(device)

    def batch(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return prepare.forward(real.images[chosen].to(device)), real.labels[chosen].to(device)

    return _fit(network, batch, len(real), config, seed=seed, device=device, precision=precision, on_epoch=on_epoch)


def _fit(
    network: nn.Module,
    batch: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    count: int,
    config: TrainConfig,
    *,
    seed: int,
    device: torch.device,
    precision: str,
    on_epoch: Callable[[int], object] | None,
) -> nn.Module:
    """Train on ``count`` images; ``batch`` gives those at some indices, preprocessed and on the device, and their labels."""
    network.to(memory_format=torch.channels_last).to(device).train()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    # A milestone at 0 would lower the rate before the first step.
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[max(1, config.epochs // 2)], gamma=0.1)
    augmentation = Augmentation(strategy=config.augmentation)
    generator = generator_for(seed, "train")
    with reuse_freed_memory() if device.type == "cpu" else nullcontext():
        for epoch in range(config.epochs):
            for chosen in torch.randperm(count, generator=generator).split(config.batch_size):
                images, labels = batch(chosen)
                images = augmentation.per_sample(images, generator)
                with autocast(device, precision):
                    logits = network(images.contiguous(memory_format=torch.channels_last))
                loss = F.cross_entropy(logits.float(), labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            schedule.step()
            if on_epoch is not None:
                on_epoch(epoch + 1)
    if not torch.isfinite(loss):
        raise DivergenceError(f"training ended with a loss of {loss.item()}; lower --lr (now {config.lr:g})")
    return network


@torch.no_grad()
def accuracy(network: nn.Module, preprocessing: Preprocessing, test: Split, *, device: torch.device) -> float:
    """The share of ``test`` images that ``network`` labels right, in [0, 1]; images pass through the set's preprocessing."""
    network.eval()
    prepare = preprocessing.to(device)
    right = 0
    with reuse_freed_memory() if device.type == "cpu" else nullcontext():
        for images, labels in zip(test.parts(_TEST_BATCH), test.labels.split(_TEST_BATCH), strict=True):
            batch = prepare.forward(images.to(device)).contiguous(memory_format=torch.channels_last)
            right += int((network(batch).argmax(1).cpu() == labels).sum())
    return right / len(test)

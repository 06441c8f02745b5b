"""Train fresh networks on a set, and test them: what a synthetic set is judged by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F

from atom_plugin.datasets import Split
from atom_plugin.errors import DivergenceError
from atom_plugin.evaluation.training_recipes import TrainConfig
from atom_plugin.runtime.device import autocast, long_work
from atom_plugin.runtime.randomness import generator_for, global_draws_from
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.augmentation import Augmentation
from atom_plugin.transforms.policies import POLICIES, pixel_policy, pixels_of
from atom_plugin.transforms.preprocessing import Preprocessing

__all__ = ["Architecture", "TrainConfig", "accuracy", "train", "train_on_real"]

_TEST_BATCH = 128


class Architecture(Protocol):
    """What builds fresh networks: :class:`~atom_plugin.models.convnet.ConvNetConfig`, or any other with this method."""

    def build(
        self, image_shape: tuple[int, int, int], classes: int, *, generator: torch.Generator | None = None
    ) -> nn.Module:
        """A network for images (C, H, W), its weights drawn from ``generator``. Raises ConfigError where it cannot be."""


def train(
    synthetic_set: SyntheticSet,
    architecture: Architecture,
    config: TrainConfig,
    *,
    seed: int,
    device: torch.device,
    precision: str = "float32",
    on_epoch: Callable[[int], object] | None = None,
) -> nn.Module:
    """A fresh network of ``architecture``, trained on the set. Raises DivergenceError where the loss blows up."""
    preprocessing, classes = synthetic_set.preprocessing, len(synthetic_set.class_names)
    batch = _set_batches(synthetic_set, config, device)
    network = architecture.build(preprocessing.image_shape, classes, generator=generator_for(seed, "network"))
    count = len(synthetic_set)
    return _fit(
        network, batch, count, classes, config, seed=seed, device=device, precision=precision, on_epoch=on_epoch
    )


def train_on_real(
    real: Split,
    preprocessing: Preprocessing,
    classes: int,
    architecture: Architecture,
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
    network = architecture.build(preprocessing.image_shape, classes, generator=generator_for(seed, "network"))
    batch = _pixel_batches(real.images, real.labels, preprocessing, config, device)
    return _fit(
        network, batch, len(real), classes, config, seed=seed, device=device, precision=precision, on_epoch=on_epoch
    )


_Batch = Callable[[torch.Tensor, torch.Generator], tuple[torch.Tensor, torch.Tensor]]
"""From indices: the images there, preprocessed, augmented and on the device, and their labels."""


def _set_batches(synthetic_set: SyntheticSet, config: TrainConfig, device: torch.device) -> _Batch:
    if config.augmentation in POLICIES:
        preprocessing = synthetic_set.preprocessing
        pixels = pixels_of(synthetic_set.images, preprocessing)
        return _pixel_batches(pixels, synthetic_set.labels, preprocessing, config, device)
    images, labels = synthetic_set.images.to(device), synthetic_set.labels.to(device)
    augmentation = Augmentation(strategy=config.augmentation)

    def batch(chosen: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        index = chosen.to(device)
        return augmentation.per_sample(images[index], generator), labels[index]

    return batch


def _pixel_batches(
    pixels: torch.Tensor, labels: torch.Tensor, preprocessing: Preprocessing, config: TrainConfig, device: torch.device
) -> _Batch:
    """Of uint8 ``pixels``: policies see those, siamese operations what preprocessing makes of them."""
    prepare = preprocessing.to(device)
    policy = pixel_policy(config.augmentation, pixels.shape[1]) if config.augmentation in POLICIES else None
    augmentation = Augmentation(strategy="none" if policy else config.augmentation)

    def batch(chosen: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        pictures = pixels[chosen] if policy is None else policy(pixels[chosen], generator)
        images = prepare.forward(pictures.to(device))
        return augmentation.per_sample(images, generator), labels[chosen].to(device)

    return batch


def _fit(
    network: nn.Module,
    batch: _Batch,
    count: int,
    classes: int,
    config: TrainConfig,
    *,
    seed: int,
    device: torch.device,
    precision: str,
    on_epoch: Callable[[int], object] | None,
) -> nn.Module:
    """Train on the ``count`` images that ``batch`` hands out, of ``classes`` classes."""
    network.to(memory_format=torch.channels_last).to(device).train()
    optimizer = config.build_optimizer(network)
    schedule = config.build_schedule(optimizer)
    generator = generator_for(seed, "train")
    with (
        long_work(device),
        global_draws_from(generator_for(seed, "dropout"), device),
    ):
        for epoch in range(config.epochs):
            for chosen in torch.randperm(count, generator=generator).split(config.batch_size):
                images, targets = batch(chosen, generator)
                if config.cutmix:
                    images, targets = _cut_and_mix(images, targets, classes, config.cutmix, generator)
                with autocast(device, precision):
                    logits = network(images.contiguous(memory_format=torch.channels_last))
                loss = F.cross_entropy(logits.float(), targets, label_smoothing=config.label_smoothing)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            schedule.step()
            if on_epoch is not None:
                on_epoch(epoch + 1)
    if not torch.isfinite(loss):
        raise DivergenceError(f"training ended with a loss of {loss.item()}; lower --lr (now {config.lr:g})")
    return network


def _cut_and_mix(
    images: torch.Tensor, labels: torch.Tensor, classes: int, alpha: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every image with a box of its neighbour's, and the shares (N, classes) of both labels."""
    from torchvision.transforms import v2

    with global_draws_from(generator):
        mixed: tuple[torch.Tensor, torch.Tensor] = v2.CutMix(num_classes=classes, alpha=alpha)(images, labels)
    return mixed


@torch.no_grad()
def accuracy(network: nn.Module, preprocessing: Preprocessing, test: Split, *, device: torch.device) -> float:
    """The share of ``test`` images that ``network`` labels right, in [0, 1]; images pass through the set's preprocessing."""
    network.eval()
    prepare = preprocessing.to(device)
    right = 0
    with long_work(device):
        for images, labels in zip(test.parts(_TEST_BATCH), test.labels.split(_TEST_BATCH), strict=True):
            batch = prepare.forward(images.to(device)).contiguous(memory_format=torch.channels_last)
            right += int((network(batch).argmax(1).cpu() == labels).sum())
    return right / len(test)

"""Train new networks on a set, and test them, to evaluate the set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from atom_plugin.datasets import Split
from atom_plugin.evaluation.targets import settled, targets_of
from atom_plugin.evaluation.training_recipes import TrainConfig
from atom_plugin.models.fitting import Batches, Course, check_loss, fit
from atom_plugin.runtime.device import long_work
from atom_plugin.runtime.randomness import generator_for, global_draws_from
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.augmentation import Augmentation
from atom_plugin.transforms.policies import POLICIES, pixel_policy
from atom_plugin.transforms.preprocessing import Preprocessing, to_uint8

__all__ = ["Architecture", "TrainConfig", "TrainingRun", "accuracy", "train", "train_on_real"]

_CPU = torch.device("cpu")

TEST_BATCH = 128


class Architecture(Protocol):
    """A builder of new networks: :class:`~atom_plugin.models.convnet.ConvNetConfig`, or any other with this method."""

    def build(
        self, image_shape: tuple[int, int, int], classes: int, *, generator: torch.Generator | None = None
    ) -> nn.Module:
        """A network for images (C, H, W), its weights drawn from ``generator``. Raises ConfigError if it is impossible."""


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """Device, precision and callbacks of a training.

    ``on_epoch`` is called after each epoch with the number of finished epochs, ``on_networks`` also with the current networks.
    ``dtype`` is the type of weights and images; ``precision`` "bfloat16" lets convolutions and matrix products run in bfloat16.
    """

    device: torch.device = _CPU
    precision: str = "float32"
    dtype: torch.dtype = torch.float32
    on_epoch: Callable[[int], object] | None = None
    on_networks: Callable[[int, Sequence[nn.Module]], object] | None = None

    def tell(self, done: int, networks: Callable[[], Sequence[nn.Module]]) -> None:
        """Call the callbacks after ``done`` epochs."""
        if self.on_epoch is not None:
            self.on_epoch(done)
        if self.on_networks is not None:
            self.on_networks(done, networks())


DEFAULT_RUN = TrainingRun()


def train(
    synthetic_set: SyntheticSet,
    architecture: Architecture,
    config: TrainConfig,
    *,
    seed: int,
    run: TrainingRun = DEFAULT_RUN,
) -> nn.Module:
    """A new network of ``architecture``, trained on the set, on its soft labels if ``config`` asks for them.

    Raises DivergenceError if the loss diverges, ConfigError if ``config`` does not fit the set's labels.
    """
    config, targets = settled(config, synthetic_set), targets_of(synthetic_set, config)
    batches = _set_batches(synthetic_set, targets.values, config, run)
    return _trained(batches, synthetic_set, architecture, config, seed=seed, run=run, squared=targets.squared)


def train_on_real(
    real: Split,
    synthetic_set: SyntheticSet,
    architecture: Architecture,
    config: TrainConfig,
    *,
    seed: int,
    run: TrainingRun = DEFAULT_RUN,
) -> nn.Module:
    """As :func:`train`, on all of ``real``, uint8 images and classes, instead of the set's; preprocessing is the set's.

    Images are preprocessed batch by batch: memory holds the uint8 images and one float32 batch, whatever their number.
    """
    batches = _pixel_batches(real, real.labels, synthetic_set.preprocessing, config, run)
    return _trained(batches, synthetic_set, architecture, config, seed=seed, run=run)


def _set_batches(synthetic_set: SyntheticSet, targets: torch.Tensor, config: TrainConfig, run: TrainingRun) -> Batches:
    """Batches of decoded images, each with its row of ``targets``."""
    decoded = synthetic_set.decoded()
    if config.augmentation in POLICIES:
        pictures = Split(images=to_uint8(synthetic_set.true_colour()), labels=decoded.labels)
        return _pixel_batches(pictures, targets, synthetic_set.preprocessing, config, run)
    images, labels = decoded.images.to(run.device, run.dtype), targets.to(run.device)
    augmentation = Augmentation(strategy=config.augmentation)

    def batch(chosen: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        index = chosen.to(run.device)
        return augmentation.per_sample(images[index], generator), labels[index]

    return Batches(count=len(labels), size=config.batch_size, of=batch)


def _pixel_batches(
    pictures: Split, targets: torch.Tensor, preprocessing: Preprocessing, config: TrainConfig, run: TrainingRun
) -> Batches:
    """Batches of uint8 ``pictures``, each with its row of ``targets``.

    Pixel policies see uint8 pixels, siamese operations preprocessed images.
    """
    prepare = preprocessing.to(run.device)
    policy = pixel_policy(config.augmentation, pictures.image_shape[0]) if config.augmentation in POLICIES else None
    augmentation = Augmentation(strategy="none" if policy else config.augmentation)

    def batch(chosen: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = pictures.rows(chosen) if policy is None else policy(pictures.rows(chosen), generator)
        images = prepare.forward(pixels.to(run.device)).to(run.dtype)
        return augmentation.per_sample(images, generator), targets[chosen].to(run.device)

    return Batches(count=len(pictures), size=config.batch_size, of=batch)


def _trained(
    batches: Batches,
    synthetic_set: SyntheticSet,
    architecture: Architecture,
    config: TrainConfig,
    *,
    seed: int,
    run: TrainingRun,
    squared: bool = False,
) -> nn.Module:
    """A network for the images and classes of the set, trained on ``batches``; ``squared``: by mean squared error."""
    shape, classes = synthetic_set.preprocessing.image_shape, len(synthetic_set.class_names)
    network = architecture.build(shape, classes, generator=generator_for(seed, "network"))
    network.to(memory_format=torch.channels_last).to(run.device, run.dtype).train()
    if config.cutmix:
        batches = batches.with_cutmix(config.cutmix, classes)
    optimizer = config.build_optimizer(network)
    course = Course(
        epochs=config.epochs,
        precision=run.precision,
        label_smoothing=config.label_smoothing,
        squared=squared,
        schedule=config.build_schedule(optimizer),
        on_epoch=lambda done: run.tell(done, lambda: [network]),
    )
    with long_work(run.device), global_draws_from(generator_for(seed, "dropout"), run.device):
        loss = fit(network, batches, optimizer, course, generator_for(seed, "train"))
    check_loss(loss, f"lower --lr (now {config.lr:g})")
    return network


@torch.no_grad()
def accuracy(network: nn.Module, preprocessing: Preprocessing, test: Split, *, device: torch.device) -> float:
    """The fraction of ``test`` images that ``network`` classifies right, in [0, 1], after the set's preprocessing."""
    network.eval()
    prepare = preprocessing.to(device)
    right = 0
    with long_work(device):
        for images, labels in zip(test.parts(TEST_BATCH), test.labels.split(TEST_BATCH), strict=True):
            batch = prepare.forward(images.to(device)).contiguous(memory_format=torch.channels_last)
            right += int((network(batch).argmax(1).cpu() == labels).sum())
    return right / len(test)

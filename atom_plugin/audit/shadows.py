"""Shadow networks: trained like the attacked ones, on sets made without the examined images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from atom_plugin.audit.attacks import Array, confidences
from atom_plugin.audit.members import Examined, among, seen_images
from atom_plugin.datasets import SourceData, Split
from atom_plugin.distillation.select_config import SelectConfig
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.errors import ConfigError, SourceError
from atom_plugin.evaluation import network_of, network_seed
from atom_plugin.evaluation.training import TEST_BATCH, TrainConfig, TrainingRun, train
from atom_plugin.models.convnet import ConvNet, ConvNetConfig
from atom_plugin.runtime.device import long_work
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Training:
    """The training of all networks of an audit: ``networks`` on each set, network r from the same weights on every one."""

    config: TrainConfig
    networks: int
    seed: int
    run: TrainingRun


@dataclass(frozen=True, kw_only=True, eq=False)
class ShadowSet:
    """A set to train shadow networks on; ``saw`` (n,), bool, marks the examined images that it was made from."""

    synthetic_set: SyntheticSet
    saw: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Shadows:
    """The results of shadow networks on ``sets`` for the examined images: ``confidences`` (S, n), and ``saw`` (S, n), bool.

    ``embedder`` is the first of them, which takes images with ``preprocessing``.
    """

    sets: Sequence[SyntheticSet]
    confidences: Array
    saw: Array
    embedder: ConvNet
    preprocessing: Preprocessing


def shadow_sets(like: SyntheticSet, examined: Examined, training: Training, images: int) -> list[ShadowSet]:
    """A set for each network, as many images as ``like`` has, drawn at random from the reference images, with its
    preprocessing.

    None of the examined ``images`` is among them. Raises SourceError if these are too few.
    """
    source = examined.shadow_source
    need, held = like.ipc * like.factor**2, source.train.labels.bincount(minlength=len(source.class_names))
    if (few := int(held.min())) < need:
        raise SourceError(
            f"{source.name}: a half of the images outside the set's own, {few} in the class "
            f"{source.class_names[int(held.argmin())]!r}, is fewer than the {need} that a shadow set takes; make the set with "
            "a larger --validation, or give --shadow"
        )
    unseen = np.zeros(images, dtype=bool)
    return [
        ShadowSet(synthetic_set=random_images(like, source, seed=training.seed + number), saw=unseen)
        for number in range(training.networks)
    ]


def random_images(like: SyntheticSet, source: SourceData, *, seed: int) -> SyntheticSet:
    """As many real images of ``source`` as ``like`` has, drawn at random, with its storage and preprocessing."""
    choices: dict[str, Any] = {"factor": like.factor, "storage": like.storage, "precision": "float32", "seed": seed}
    network = asdict(network_of(like))
    config = SelectConfig.from_recipe(
        "atom", ipc=like.ipc, method="random", image_shape=source.image_shape, network=network, **choices
    )
    return selected_set(config, source, preprocessing=like.preprocessing, device="cpu")


def given_shadow_set(name: str, synthetic_set: SyntheticSet, made_of: SourceData, images: torch.Tensor) -> ShadowSet:
    """The set called ``name``, made from the training images of ``made_of``, with the examined ``images`` uint8 (n, C, H, W).

    Raises ConfigError if it was made from all of these.
    """
    saw = among(images, seen_images(made_of.train)).numpy()
    if saw.all():
        raise ConfigError(
            f"{name}: was made from all examined images, expected a shadow set made without some of them; make it "
            "with another --split-seed of --validation"
        )
    return ShadowSet(synthetic_set=synthetic_set, saw=saw)


def train_shadows(sets: Sequence[ShadowSet], network: ConvNetConfig, images: Split, training: Training) -> Shadows:
    """Networks on ``sets`` in turn: ``training.networks`` in all, or one on each if there are more sets."""
    count = max(training.networks, len(sets))
    used = [sets[number % len(sets)] for number in range(count)]
    trained = [_network(each.synthetic_set, network, training, number) for number, each in enumerate(used)]
    told = [_confidences(net, each.synthetic_set, images, training) for net, each in zip(trained, used, strict=True)]
    return Shadows(
        sets=[each.synthetic_set for each in used],
        confidences=np.stack(told),
        saw=np.stack([each.saw for each in used]),
        embedder=trained[0].eval(),
        preprocessing=used[0].synthetic_set.preprocessing,
    )


def train_targets(synthetic_set: SyntheticSet, network: ConvNetConfig, images: Split, training: Training) -> Array:
    """Confidences (R, n) on ``images`` of networks trained on the set."""
    found = []
    for number in range(training.networks):
        trained = _network(synthetic_set, network, training, number)
        found.append(_confidences(trained, synthetic_set, images, training))
    return np.stack(found)


def _network(synthetic_set: SyntheticSet, network: ConvNetConfig, training: Training, number: int) -> ConvNet:
    """A network of this package: the audit accepts no other."""
    seed = network_seed(training.seed, number)
    trained = train(synthetic_set, network, training.config, seed=seed, run=training.run)
    assert isinstance(trained, ConvNet)
    return trained


@torch.no_grad()
def _confidences(network: ConvNet, synthetic_set: SyntheticSet, images: Split, training: Training) -> Array:
    network.eval()
    device = training.run.device
    prepare, found = synthetic_set.preprocessing.to(device), []
    with long_work(device):
        for part, labels in zip(images.parts(TEST_BATCH), images.labels.split(TEST_BATCH), strict=True):
            batch = prepare.forward(part.to(device)).contiguous(memory_format=torch.channels_last)
            found.append(confidences(network(batch).cpu(), labels))
    return np.concatenate(found)

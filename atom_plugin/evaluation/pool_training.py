"""The networks of a pool (:mod:`atom_plugin.models.network_pool`): ConvNets trained on real images, kept at several ages."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from atom_plugin.datasets import SourceData, Split
from atom_plugin.errors import ConfigError, DivergenceError
from atom_plugin.evaluation.cuda_training import most_at_once, suits, train_together
from atom_plugin.evaluation.training import TrainConfig, TrainingRun, accuracy, train
from atom_plugin.models.convnet import ConvNet, ConvNetConfig
from atom_plugin.models.network_pool import NetworkPool, flat_weights
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.store.provenance import Provenance
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing


def make_pool(
    data: SourceData,
    network: ConvNetConfig,
    preprocessing: Preprocessing,
    training: TrainConfig,
    *,
    networks: int,
    every: int = 1,
    judged_on: Split | None = None,
    seed: int = 0,
    run: TrainingRun,
) -> NetworkPool:
    """``networks`` ConvNets trained on the training images of ``data``, kept at the start, each ``every``-th epoch and the end.

    ``judged_on`` are the images that the trained networks' accuracies are of, by default the test images of ``data``. Network r
    starts and trains as the seed ``seed + r`` says. On a GPU they train together. Raises ConfigError for counts below 1,
    DivergenceError where a network's loss blows up.
    """
    for name, value in (("networks", networks), ("every", every)):
        if value < 1:
            raise ConfigError(f"{name} of a pool must be at least 1, not {value}")
    real = SyntheticSet(
        images=data.train.images,
        labels=data.train.labels,
        class_names=data.class_names,
        preprocessing=preprocessing,
        provenance=Provenance(method="all images", seed=seed),
    )
    kept: list[list[torch.Tensor]] = [[] for _ in range(networks)]
    seeds = list(range(seed, seed + networks))
    for own, each in zip(kept, seeds, strict=True):
        fresh = network.build(data.image_shape, len(data.class_names), generator=generator_for(each, "network"))
        own.append(flat_weights(fresh))

    def keep(first: int, done: int, trained: Sequence[nn.Module]) -> None:
        if done % every == 0 or done == training.epochs:
            for own, one in zip(kept[first:], trained, strict=False):
                assert isinstance(one, ConvNet)
                own.append(flat_weights(one))

    at_once = most_at_once(network, training, real, run.device) if suits(network, training, run.device) else 1
    accuracies = []
    for first in range(0, networks, at_once):
        own_seeds = seeds[first : first + at_once]
        watched = dataclasses.replace(run, on_networks=lambda done, trained, first=first: keep(first, done, trained))
        if at_once > 1:
            trained = train_together([real] * len(own_seeds), network, training, seeds=own_seeds, run=watched)
        else:
            trained = [train(real, network, training, seed=own_seeds[0], run=watched)]
        for one in trained:
            if isinstance(one, DivergenceError):
                raise one
            accuracies.append(accuracy(one, preprocessing, judged_on or data.test, device=run.device))
    epochs = [0, *(done for done in range(1, training.epochs + 1) if done % every == 0 or done == training.epochs)]
    return NetworkPool(
        network=network,
        image_shape=data.image_shape,
        classes=len(data.class_names),
        epochs=tuple(epochs),
        weights=torch.stack([torch.stack(own) for own in kept]),
        accuracies=tuple(accuracies),
        fingerprint=data.fingerprint,
        made={"training": dataclasses.asdict(training), "seed": seed, "preprocessing": preprocessing.describe()},
    )

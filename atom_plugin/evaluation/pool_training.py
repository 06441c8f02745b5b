"""Train the networks of a pool (:mod:`atom_plugin.models.network_pool`): ConvNets on real images, kept at several ages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """How a pool is made: ``networks`` of one kind, kept at the start, each ``every``-th epoch and the end.

    The seed of network r is ``seed + r``. Raises ConfigError for counts below 1.
    """

    network: ConvNetConfig
    training: TrainConfig
    networks: int = 5
    every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("networks", "every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} of a pool must be at least 1, not {getattr(self, name)}")

    @property
    def epochs(self) -> tuple[int, ...]:
        """The epochs at which the networks are kept."""
        last = self.training.epochs
        return (0, *(done for done in range(1, last + 1) if done % self.every == 0 or done == last))


def make_pool(
    data: SourceData,
    preprocessing: Preprocessing,
    config: PoolConfig,
    *,
    run: TrainingRun,
    begun: NetworkPool | None = None,
    on_networks: Callable[[NetworkPool], object] | None = None,
) -> NetworkPool:
    """Networks trained on the training images of ``data``, and tested on its validation images, or its test images.

    On a GPU several train together. ``begun`` is a pool made with the same options with fewer networks, which are kept;
    ``on_networks`` is called with the growing pool. Raises ConfigError if ``begun`` has other options, DivergenceError if a
    network's loss diverges.
    """
    real = SyntheticSet(
        images=data.train.images,
        labels=data.train.labels,
        class_names=data.class_names,
        preprocessing=preprocessing,
        provenance=Provenance(method="all images", seed=config.seed),
    )
    together = suits(config.network, config.training, run.device)
    at_once = most_at_once(config.network, config.training, real, run.device) if together else 1
    pool = _begun(begun, data, preprocessing, config)
    seeds = list(range(config.seed, config.seed + config.networks))
    for first in range(len(pool), config.networks, at_once):
        group = seeds[first : first + at_once]
        pool = _grown(pool, real, config, group, judged_on=data.validation or data.test, run=run)
        if on_networks is not None:
            on_networks(pool)
    return pool


def _begun(
    begun: NetworkPool | None, data: SourceData, preprocessing: Preprocessing, config: PoolConfig
) -> NetworkPool:
    """``begun``, checked, or an empty pool."""
    fresh = NetworkPool(
        network=config.network,
        image_shape=data.image_shape,
        classes=len(data.class_names),
        epochs=config.epochs,
        weights=torch.zeros(0, len(config.epochs), _count(config.network, data)),
        accuracies=(),
        fingerprint=data.fingerprint,
        preprocessing=preprocessing.describe(),
        made={"training": config.training.to_json(), "seed": config.seed},
    )
    if begun is None:
        return fresh
    for name in ("network", "image_shape", "classes", "epochs", "fingerprint", "preprocessing", "made"):
        found, expected = getattr(begun, name), getattr(fresh, name)
        if found != expected:
            raise ConfigError(
                f"the pool was begun with other options ({name}: {found}, not {expected}); give the same, or start "
                "over with --force"
            )
    return begun


def _count(network: ConvNetConfig, data: SourceData) -> int:
    return sum(each.numel() for each in network.build(data.image_shape, len(data.class_names)).parameters())


def _grown(
    pool: NetworkPool,
    real: SyntheticSet,
    config: PoolConfig,
    seeds: Sequence[int],
    *,
    judged_on: Split,
    run: TrainingRun,
) -> NetworkPool:
    """The pool with one more network for each of ``seeds``, trained together if there are several."""
    shape, classes = pool.image_shape, pool.classes
    starts = [config.network.build(shape, classes, generator=generator_for(seed, "network")) for seed in seeds]
    kept = [[flat_weights(network)] for network in starts]
    watched = dataclasses.replace(run, on_networks=partial(_keep, kept, config.epochs, run.on_networks))
    if len(seeds) > 1:
        trained: Sequence[nn.Module | DivergenceError] = train_together(
            [real] * len(seeds), config.network, config.training, seeds=seeds, run=watched
        )
    else:
        trained = [train(real, config.network, config.training, seed=seeds[0], run=watched)]
    accuracies = []
    for one in trained:
        if isinstance(one, DivergenceError):
            raise one
        accuracies.append(accuracy(one, real.preprocessing, judged_on, device=run.device))
    return dataclasses.replace(
        pool,
        weights=torch.cat([pool.weights, torch.stack([torch.stack(own) for own in kept])]),
        accuracies=(*pool.accuracies, *accuracies),
    )


def _keep(
    kept: Sequence[list[torch.Tensor]],
    epochs: Sequence[int],
    tell: Callable[[int, Sequence[nn.Module]], object] | None,
    done: int,
    trained: Sequence[nn.Module],
) -> None:
    """Keep the weights of ``trained`` at the given epochs, and call the other callback."""
    if tell is not None:
        tell(done, trained)
    if done in epochs:
        for own, network in zip(kept, trained, strict=True):
            assert isinstance(network, ConvNet)
            own.append(flat_weights(network))

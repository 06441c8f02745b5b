"""The baselines of an experiment: Avalanche's strategies on real images, trained in the same way as synthetic memories."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin

from atom_plugin.integrations.avalanche.exemplars import RawExemplars, RawGDumb
from atom_plugin.integrations.avalanche.shared_training import augment_parts, lower_rate_at_half, restart_optimizer
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.transforms.augmentation import Augmentation


class AugmentedReplay(SupervisedPlugin):  # type: ignore[misc]  # Avalanche ships no types
    """Augments the batches of Avalanche's strategies in the same way as :class:`SyntheticReplay`: stream and memory separately.

    Avalanche does not mark the memory's samples in a batch. The stream's samples come first: ``train_mb_size`` of them, or
    the rest of the epoch.
    """

    def __init__(self, *, stream_augmentation: str, memory_augmentation: str, seed: int) -> None:
        super().__init__()
        self._stream = Augmentation(strategy=stream_augmentation)
        self._memory = Augmentation(strategy=memory_augmentation)
        self._seed = seed
        self._generator = generator_for(seed, "replay")

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Seed the augmentation of this experience."""
        self._generator = generator_for(self._seed, "replay", strategy.clock.train_exp_counter)

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Augment the two parts of the batch."""
        left = len(strategy.adapted_dataset) - strategy.clock.train_epoch_iterations * strategy.train_mb_size
        stream_samples = min(left, strategy.train_mb_size)
        strategy.mbatch[0] = augment_parts(
            strategy.mbatch[0], stream_samples, self._stream, self._memory, self._generator
        )


class EqualGDumb(RawGDumb):
    """GDumb with the initial networks, the augmentation and the learning rates of :class:`TrainFromMemory`."""

    def __init__(
        self, policy: RawExemplars, *, fresh: Callable[[int], torch.nn.Module], augmentation: str, seed: int
    ) -> None:
        super().__init__(policy)
        self._fresh = fresh
        self._augmentation = Augmentation(strategy=augmentation)
        self._seed = seed
        self._generator = generator_for(seed, "from memory")
        self._rates: list[float] = []

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """GDumb restarts from its initial network; set that to the network of this experience."""
        experience = strategy.clock.train_exp_counter
        self._generator = generator_for(self._seed, "from memory", experience)
        self._rates = restart_optimizer(strategy, self._rates)
        self.init_model = self._fresh(experience).to(strategy.device).train()
        super().before_train_dataset_adaptation(strategy, **kwargs)

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Lower the learning rate at half of the epochs."""
        lower_rate_at_half(strategy)

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Augment the batch."""
        strategy.mbatch[0] = self._augmentation.per_sample(strategy.mbatch[0], self._generator)

"""The baselines: Avalanche's replay and GDumb on raw images, with a fixed number of images per class."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.training.plugins import GDumbPlugin, ReplayPlugin
from avalanche.training.storage_policy import ExemplarsBuffer

from atom_plugin.errors import ConfigError
from atom_plugin.integrations.avalanche.stream_samples import classes_of


class RawExemplars(ExemplarsBuffer):  # type: ignore[misc]
    """``per_class`` images of each class seen, drawn at random from the stream when the class first arrives.

    Avalanche's ClassBalancedBuffer does the same, but adds a task label to its samples, which fails with a stream of (x, y)
    (0.6.0).
    """

    buffer: Any
    """The stored images as an Avalanche dataset."""

    def __init__(self, per_class: int) -> None:
        super().__init__(0)
        self._per_class = per_class

    def post_adapt(self, agent_state: Any, exp: Any) -> None:
        """Select images of each new class of ``exp``; draws from torch's global generator, as Avalanche's buffers do."""
        targets = torch.tensor([int(label) for label in exp.dataset.targets])
        held = {int(label) for label in self.buffer.targets} if len(self.buffer) else set()
        members = [(targets == label).nonzero().flatten() for label in classes_of(exp) if label not in held]
        if not members:
            return
        chosen = torch.cat([of_class[torch.randperm(len(of_class))[: self._per_class]] for of_class in members])
        new = exp.dataset.subset(chosen.tolist())
        # Concatenation with the empty initial buffer would lose the targets.
        self.buffer = self.buffer.concat(new) if len(self.buffer) else new
        self.max_size = len(self.buffer)

    def resize(self, strategy: Any, new_size: int) -> None:
        """Raises ConfigError: the number of images per class is fixed."""
        raise ConfigError("this buffer holds a fixed number of images per class; make another with more or fewer")


class RawReplay(ReplayPlugin):  # type: ignore[misc]
    """ReplayPlugin without its deprecated call that fills the memory."""

    def __init__(self, policy: RawExemplars) -> None:
        super().__init__(policy.max_size, storage_policy=policy)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Select exemplars of the experience."""
        self.storage_policy.post_adapt(strategy, strategy.experience)


class RawGDumb(GDumbPlugin):  # type: ignore[misc]
    """GDumbPlugin without its deprecated call that fills the memory."""

    def __init__(self, policy: RawExemplars) -> None:
        super().__init__(policy.max_size)
        self.storage_policy = policy

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Select exemplars of the experience, and train on all stored exemplars."""
        self.storage_policy.post_adapt(strategy, strategy.experience)
        strategy.adapted_dataset = self.storage_policy.buffer

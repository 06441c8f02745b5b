"""An Avalanche plugin: training on a synthetic memory alone."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from avalanche.models.utils import avalanche_model_adaptation
from avalanche.training.plugins import SupervisedPlugin

from atom_plugin.errors import ConfigError
from atom_plugin.integrations.avalanche import stored_logits
from atom_plugin.integrations.avalanche.batches import batches_of, require_policy
from atom_plugin.integrations.avalanche.shared_training import lower_rate_at_half, restart_optimizer
from atom_plugin.replay.logits import LOGIT_WEIGHT
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.transforms.augmentation import DEFAULT_STRATEGY, Augmentation


class TrainFromMemory(SupervisedPlugin):  # type: ignore[misc]  # Avalanche ships no types
    """The papers' protocol: for each experience, a new network trains only on the memory.

    The experience's classes are added to the memory first; its real images are not used for training. ``fresh`` makes the
    network of the k-th experience, k from 0 (default: a copy of the strategy's initial model, as in GDumb); it becomes
    ``strategy.model``. ``decay_at_half`` multiplies the learning rate by 0.1 at half of the epochs, until the next
    experience. The operations of ``augmentation`` are drawn for each image. DataDAM's settings: SGD 0.01, momentum 0.9,
    weight decay 5e-4, batch 256, 1,001 epochs.

    ``memory_labels`` and ``logit_weight`` as in :class:`~atom_plugin.integrations.avalanche.SyntheticReplay`: the logits of an
    image are those of the first network that was trained with it.

    Nothing is trained while a :class:`SyntheticMemory` collects the parts of an online experience.
    """

    def __init__(
        self,
        policy: Any,
        *,
        augmentation: str = DEFAULT_STRATEGY,
        decay_at_half: bool = True,
        fresh: Callable[[int], torch.nn.Module] | None = None,
        memory_labels: str = "hard",
        logit_weight: float = LOGIT_WEIGHT,
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_policy(policy)
        self.memory_labels = stored_logits.labels_of(policy, memory_labels, logit_weight)
        self.policy = policy
        self.decay_at_half = decay_at_half
        self._augmentation = Augmentation(strategy=augmentation)
        self._fresh = fresh
        self._seed = seed
        self._generator = generator_for(seed, "from memory")
        self._initial: torch.nn.Module | None = None
        self._rates: list[float] = []
        self._term: torch.Tensor | float = 0.0
        self._idle = False

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Fill the memory, then reset the network and its optimiser."""
        self.policy.post_adapt(strategy, strategy.experience)
        self._idle = getattr(self.policy, "gathering", False)
        if self._idle:
            return
        if not len(self.policy.buffer):
            raise ConfigError(
                "the memory is empty after an experience, expected images to train on; give it room for images"
            )
        experience = strategy.clock.train_exp_counter
        self._generator = generator_for(self._seed, "from memory", experience)
        self._rates = restart_optimizer(strategy, self._rates)
        if self._fresh is not None:
            network = self._fresh(experience).to(strategy.device).train()
            _adapt_to(network, self.policy.buffer)
            strategy.model = network
        else:
            if self._initial is None:
                self._initial = copy.deepcopy(strategy.model)
            # A model that adds a head for each task also adds it to the initial model.
            strategy.model_adaptation(self._initial)
            strategy.model = copy.deepcopy(self._initial).train()
        strategy.optimizer.state.clear()

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Train on the memory."""
        if not self._idle:
            strategy.adapted_dataset = self.policy.buffer

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Replace the strategy's loader by whole batches of the memory."""
        strategy.dataloader = [] if self._idle else batches_of(self.policy, strategy.train_mb_size)

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Lower the learning rate at half of the epochs."""
        if self.decay_at_half and not self._idle:
            lower_rate_at_half(strategy)

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Augment."""
        strategy.mbatch[0] = self._augmentation.per_sample(strategy.mbatch[0], self._generator)

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Compare the outputs with the stored logits."""
        stored = stored_logits.of_latest(strategy.dataloader)
        strategy.mb_output, self._term = self.memory_labels.apply(strategy.mb_output, stored)

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Add the loss of the stored logits."""
        strategy.loss = strategy.loss + self._term

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Store the new network's logits of images that have none."""
        if self.memory_labels.soft and not self._idle:
            stored_logits.store_logits(strategy, self.policy.memory)

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed stream needs besides the strategy's state."""
        initial = None if self._initial is None else self._initial.state_dict()
        return {"initial": initial, "rates": list(self._rates)}

    def load_state_dict(self, state: dict[str, Any], model: torch.nn.Module) -> None:
        """Continue from a result of :meth:`state_dict`; ``model`` has the architecture of the strategy's model."""
        self._rates = [float(rate) for rate in state["rates"]]
        if state["initial"] is not None:
            self._initial = copy.deepcopy(model)
            self._initial.load_state_dict(state["initial"])


def _adapt_to(network: torch.nn.Module, buffer: Any) -> None:
    """Let a network that grows with the stream add the parts that ``buffer``'s samples need, e.g. a head for each task."""
    targets = [int(label) for label in buffer.targets]
    classes: dict[int, set[int]] = defaultdict(set)
    for task, label in zip(getattr(buffer, "targets_task_labels", [0] * len(targets)), targets, strict=True):
        classes[int(task)].add(label)
    for task, labels in classes.items():
        avalanche_model_adaptation(
            network, SimpleNamespace(classes_in_this_experience=sorted(labels), task_labels=[task])
        )

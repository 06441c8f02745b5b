"""Avalanche plugins: replay with a synthetic memory, and training only on the memory."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from avalanche.models.utils import avalanche_model_adaptation
from avalanche.training.plugins import SupervisedPlugin

from atom_plugin.errors import ConfigError, require_methods
from atom_plugin.integrations.avalanche.batches import batches_of
from atom_plugin.integrations.avalanche.fine_tuning import FINETUNE_STEPS, fine_tune
from atom_plugin.integrations.avalanche.shared_training import augment_parts, lower_rate_at_half, restart_optimizer
from atom_plugin.replay.batches import MixedBatches
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.transforms.augmentation import DEFAULT_STRATEGY, Augmentation


class SyntheticReplay(SupervisedPlugin):  # type: ignore[misc]  # Avalanche ships no types
    """Replay: a batch of the memory is appended to each batch of the stream; the memory grows after each experience.

    ``policy`` is a :class:`SyntheticMemory` or any other storage policy. ``memory_batch``: memory images per batch (default:
    the strategy's batch size; all images of a smaller memory). Memory and stream have separate augmentations: the siamese
    operations of :class:`Augmentation` joined by ``_``, drawn for each image, or "none".

    ``asymmetric_loss`` limits the loss of stream samples to the classes of their experience; memory samples use all classes
    (ER-ACE: Caccia et al., "New Insights on Reducing Abrupt Representation Change in Online Continual Learning", 2022). So a
    new class does not reduce the logits of all earlier classes.

    ``finetune_steps`` training steps on the memory only, with ``finetune_augmentation``, follow when the memory has the
    classes of an experience (:mod:`~atom_plugin.integrations.avalanche.fine_tuning`); 0 leaves them out.

    During the training on a batch, :attr:`memory_mask` marks the samples of the memory.
    """

    memory_mask: torch.Tensor | None
    """bool (N,), on the strategy's device: which samples of the current batch come from the memory; None outside training."""

    def __init__(
        self,
        policy: Any,
        *,
        memory_batch: int | None = None,
        memory_augmentation: str = "none",
        stream_augmentation: str = "none",
        asymmetric_loss: bool = True,
        finetune_steps: int = FINETUNE_STEPS,
        finetune_augmentation: str = DEFAULT_STRATEGY,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _require_policy(policy)
        if finetune_steps < 0:
            raise ConfigError(f"finetune_steps must be at least 0, not {finetune_steps}")
        if memory_batch is not None and memory_batch < 1:
            raise ConfigError(f"memory_batch must be at least 1, not {memory_batch}")
        self.policy = policy
        self.memory_batch = memory_batch
        self.asymmetric_loss = asymmetric_loss
        self.finetune_steps = finetune_steps
        self._finetune = Augmentation(strategy=finetune_augmentation)
        self._stream = Augmentation(strategy=stream_augmentation)
        self._memory = Augmentation(strategy=memory_augmentation)
        self._seed = seed
        self._generator = generator_for(seed, "replay")
        self._mixed: MixedBatches | None = None
        self.memory_mask = None

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Append the memory's batches to the stream's."""
        if hasattr(self.policy, "check"):
            self.policy.check(strategy.experience)
        self._generator = generator_for(self._seed, "replay", strategy.clock.train_exp_counter)
        self._mixed = None
        if len(self.policy.buffer):
            memory = batches_of(self.policy, self.memory_batch or strategy.train_mb_size)
            self._mixed = strategy.dataloader = MixedBatches(strategy.dataloader, memory)

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Set :attr:`memory_mask` for the batch."""
        images = strategy.mbatch[0]
        self.memory_mask = torch.arange(len(images), device=images.device) >= self._stream_samples(images)

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Augment the two parts of the batch."""
        images = strategy.mbatch[0]
        stream_samples = self._stream_samples(images)
        strategy.mbatch[0] = augment_parts(images, stream_samples, self._stream, self._memory, self._generator)

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Exclude the stream samples' logits of other experiences' classes from the loss."""
        if not self.asymmetric_loss or self._mixed is None:
            return
        logits = strategy.mb_output
        others = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
        others[list(strategy.experience.classes_in_this_experience)] = False
        assert self.memory_mask is not None
        strategy.mb_output = logits.masked_fill(~self.memory_mask[:, None] & others, -torch.inf)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Add the experience's classes to the memory, then fine-tune on the whole memory."""
        self._mixed = self.memory_mask = None
        self.policy.post_adapt(strategy, strategy.experience)
        if self.finetune_steps and len(self.policy.buffer) and not getattr(self.policy, "gathering", False):
            fine_tune(
                strategy,
                batches_of(self.policy, self.memory_batch or strategy.train_mb_size),
                steps=self.finetune_steps,
                augmentation=self._finetune,
                generator=generator_for(self._seed, "fine-tuning", strategy.clock.train_exp_counter),
            )

    def _stream_samples(self, images: torch.Tensor) -> int:
        return len(images) if self._mixed is None else self._mixed.stream_samples


class TrainFromMemory(SupervisedPlugin):  # type: ignore[misc]
    """The papers' protocol: for each experience, a new network trains only on the memory.

    The experience's classes are added to the memory first; its real images are not used for training. ``fresh`` makes the
    network of the k-th experience, k from 0 (default: a copy of the strategy's initial model, as in GDumb); it becomes
    ``strategy.model``. ``decay_at_half`` multiplies the learning rate by 0.1 at half of the epochs, until the next
    experience. The operations of ``augmentation`` are drawn for each image. DataDAM's settings: SGD 0.01, momentum 0.9,
    weight decay 5e-4, batch 256, 1,001 epochs.

    Nothing is trained while a :class:`SyntheticMemory` collects the parts of an online experience.
    """

    def __init__(
        self,
        policy: Any,
        *,
        augmentation: str = DEFAULT_STRATEGY,
        decay_at_half: bool = True,
        fresh: Callable[[int], torch.nn.Module] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _require_policy(policy)
        self.policy = policy
        self.decay_at_half = decay_at_half
        self._augmentation = Augmentation(strategy=augmentation)
        self._fresh = fresh
        self._seed = seed
        self._generator = generator_for(seed, "from memory")
        self._initial: torch.nn.Module | None = None
        self._rates: list[float] = []
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


def _require_policy(policy: Any) -> None:
    require_methods("policy", policy, "buffer", "post_adapt", such_as="SyntheticMemory(Budget(ipc=10), supplier)")


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

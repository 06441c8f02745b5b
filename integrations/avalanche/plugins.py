"""An Avalanche plugin: replay with a synthetic memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin
from torch.nn.modules.batchnorm import _BatchNorm

from atom_plugin.errors import ConfigError
from atom_plugin.integrations.avalanche import stored_logits
from atom_plugin.integrations.avalanche.batches import batches_of, require_policy
from atom_plugin.integrations.avalanche.fine_tuning import FINETUNE_STEPS, fine_tune
from atom_plugin.integrations.avalanche.shared_training import augment_parts
from atom_plugin.replay.batches import MixedBatches
from atom_plugin.replay.logits import LOGIT_WEIGHT
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

    ``memory_labels``: what memory images are trained with, "hard" (their classes), "logits" (DER) or "both" (DER++), with the
    weight ``logit_weight`` (:class:`~atom_plugin.replay.logits.MemoryLabels`). All but "hard" need a policy whose memory keeps
    logits; the model's own are stored at the end of each experience, after the fine-tuning, and only for images that have none.
    The fine-tuning itself takes the classes alone: it is balanced, and the newest images have no logits yet.

    ``separate_normalisation``: stream and memory pass the network one after the other, so that batch normalisation computes the
    moments of each on its own; both passes update the running statistics, because the network is tested on old and new classes.
    Between ``before_forward`` and ``after_forward`` the strategy's batch is then the stream's part.

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
        memory_labels: str = "hard",
        logit_weight: float = LOGIT_WEIGHT,
        separate_normalisation: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_policy(policy)
        self.memory_labels = stored_logits.labels_of(policy, memory_labels, logit_weight)
        if finetune_steps < 0:
            raise ConfigError(f"finetune_steps must be at least 0, not {finetune_steps}")
        if memory_batch is not None and memory_batch < 1:
            raise ConfigError(f"memory_batch must be at least 1, not {memory_batch}")
        self.policy = policy
        self.memory_batch = memory_batch
        self.asymmetric_loss = asymmetric_loss
        self.finetune_steps = finetune_steps
        self.separate_normalisation = separate_normalisation
        self._finetune = Augmentation(strategy=finetune_augmentation)
        self._stream = Augmentation(strategy=stream_augmentation)
        self._memory = Augmentation(strategy=memory_augmentation)
        self._seed = seed
        self._generator = generator_for(seed, "replay")
        self._mixed: MixedBatches | None = None
        self._replayed: Iterable[Any] | None = None
        self._apart: list[torch.Tensor] = []
        self._term: torch.Tensor | None = None
        self.memory_mask = None

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Append the memory's batches to the stream's."""
        if hasattr(self.policy, "check"):
            self.policy.check(strategy.experience)
        if self.separate_normalisation:
            _require_batch_normalisation(strategy.model)
        self._generator = generator_for(self._seed, "replay", strategy.clock.train_exp_counter)
        self._mixed = self._replayed = None
        if len(self.policy.buffer):
            self._replayed = batches_of(self.policy, self.memory_batch or strategy.train_mb_size)
            self._mixed = strategy.dataloader = MixedBatches(strategy.dataloader, self._replayed)

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Set :attr:`memory_mask` for the batch."""
        images = strategy.mbatch[0]
        self.memory_mask = torch.arange(len(images), device=images.device) >= self._stream_samples(images)

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Augment the two parts of the batch, and set the memory's aside if it is normalised separately."""
        images = strategy.mbatch[0]
        stream_samples = self._stream_samples(images)
        strategy.mbatch[0] = augment_parts(images, stream_samples, self._stream, self._memory, self._generator)
        if self.separate_normalisation and self._mixed is not None:
            self._apart = [part[stream_samples:] for part in strategy.mbatch]
            strategy.mbatch = [part[:stream_samples] for part in strategy.mbatch]

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Complete the outputs, compare the memory's with its logits, and exclude the stream samples' logits of other
        experiences' classes from the loss.
        """
        if self._mixed is None:
            return
        if self.separate_normalisation:
            self._forward_apart(strategy)
        if self.memory_labels.soft:
            stream, memory = strategy.mb_output.tensor_split([self._mixed.stream_samples])
            memory, self._term = self.memory_labels.apply(memory, stored_logits.of_latest(self._replayed))
            strategy.mb_output = torch.cat([stream, memory])
        if self.asymmetric_loss:
            self._exclude_others(strategy)

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Add the loss of the stored logits."""
        if self._term is not None:
            strategy.loss = strategy.loss + self._term

    def _forward_apart(self, strategy: Any) -> None:
        """The memory's part passes the network on its own; its outputs follow the stream's."""
        stream, strategy.mbatch, outputs = strategy.mbatch, self._apart, strategy.mb_output
        strategy.mb_output = torch.cat([outputs, strategy.forward()])
        strategy.mbatch = [torch.cat(parts) for parts in zip(stream, self._apart, strict=True)]

    def _exclude_others(self, strategy: Any) -> None:
        logits = strategy.mb_output
        others = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
        others[list(strategy.experience.classes_in_this_experience)] = False
        assert self.memory_mask is not None
        strategy.mb_output = logits.masked_fill(~self.memory_mask[:, None] & others, -torch.inf)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Add the experience's classes to the memory, then fine-tune on the whole memory."""
        self._mixed = self._replayed = self._term = self.memory_mask = None
        self.policy.post_adapt(strategy, strategy.experience)
        if not len(self.policy.buffer) or getattr(self.policy, "gathering", False):
            return
        if self.finetune_steps:
            fine_tune(
                strategy,
                batches_of(self.policy, self.memory_batch or strategy.train_mb_size),
                steps=self.finetune_steps,
                augmentation=self._finetune,
                generator=generator_for(self._seed, "fine-tuning", strategy.clock.train_exp_counter),
            )
        if self.memory_labels.soft:
            stored_logits.store_logits(strategy, self.policy.memory)

    def _stream_samples(self, images: torch.Tensor) -> int:
        return len(images) if self._mixed is None else self._mixed.stream_samples


def _require_batch_normalisation(network: torch.nn.Module) -> None:
    if not any(isinstance(module, _BatchNorm) for module in network.modules()):
        raise ConfigError(
            "separate normalisation has no effect on a network without batch normalisation; leave separate_normalisation out"
        )

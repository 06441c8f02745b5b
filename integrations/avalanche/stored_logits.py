"""Logits of a memory's images in Avalanche's strategies: stored after an experience, and used in the steps of the next ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from atom_plugin.errors import ConfigError
from atom_plugin.evaluation.training import TEST_BATCH
from atom_plugin.replay.batches import MemoryBatches
from atom_plugin.replay.logits import MemoryLabels
from atom_plugin.replay.memory import ReplayMemory


def labels_of(policy: Any, kind: str, weight: float) -> MemoryLabels:
    """What a plugin trains the policy's memory with. Raises ConfigError if that needs logits, and the memory keeps none."""
    labels = MemoryLabels(kind=kind, weight=weight)
    memory = getattr(policy, "memory", None)
    if labels.soft and not (isinstance(memory, ReplayMemory) and memory.keep_logits):
        raise ConfigError(
            f"found memory_labels {labels.kind!r}, but a memory that keeps no logits; give the policy "
            "SyntheticMemory(ReplayMemory(budget, keep_logits=True), supplier)"
        )
    return labels


def of_latest(batches: Iterable[Any] | None) -> torch.Tensor | None:
    """The stored logits (n, classes) of the latest of ``batches``; None if their memory is not this package's."""
    return batches.logits if isinstance(batches, MemoryBatches) else None


@torch.no_grad()
def store_logits(strategy: Any, memory: ReplayMemory) -> None:
    """Store the outputs of the strategy's model, in evaluation mode, for the memory's images without augmentation.

    In evaluation mode an output depends on its image alone, not on the others of a batch.
    """
    model, outputs = strategy.model, []
    was_training = model.training
    model.eval()
    for batch in MemoryBatches(memory, TEST_BATCH).in_order():
        strategy.mbatch = [part.to(strategy.device) for part in batch]
        outputs.append(strategy.forward().float().cpu())
    model.train(was_training)
    memory.store_logits(torch.cat(outputs))

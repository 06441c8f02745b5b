"""Steps that synthetic memories and baselines share, so that their results are comparable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from atom_plugin.transforms.augmentation import Augmentation


def augment_parts(
    images: torch.Tensor,
    stream_samples: int,
    stream: Augmentation,
    memory: Augmentation,
    generator: torch.Generator,
) -> torch.Tensor:
    """A batch (N, C, H, W) whose first ``stream_samples`` come from the stream, augmented by part with draws for each image."""
    if not (stream.operations or memory.operations):
        return images
    parts = zip((stream, memory), (images[:stream_samples], images[stream_samples:]), strict=True)
    return torch.cat([each.per_sample(part, generator) if len(part) else part for each, part in parts])


def restart_optimizer(strategy: Any, rates: Sequence[float]) -> list[float]:
    """Prepare the optimiser for another network, at the learning rates ``rates``; returns the rates.

    If ``rates`` is empty, the optimiser's current rates are used: a stream keeps the rates of its first experience.
    """
    groups = strategy.optimizer.param_groups
    rates = list(rates) or [group["lr"] for group in groups]
    if strategy.optimized_param_id is None:
        # Avalanche matches the new network's parameters to the optimiser's by the names of the old network's parameters.
        strategy.make_optimizer(reset_optimizer_state=True)
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
    return rates


def lower_rate_at_half(strategy: Any) -> None:
    """Multiply the learning rate by 0.1 if the next epoch starts the second half of an experience's epochs."""
    if strategy.clock.train_exp_epochs == strategy.train_epochs // 2 > 0:
        for group in strategy.optimizer.param_groups:
            group["lr"] *= 0.1

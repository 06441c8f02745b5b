"""Balanced fine-tuning: after an experience, some training steps on the memory only, which holds all classes equally.

During the training on an experience, its images outnumber the memory's by hundreds to one, and the network classifies nearly
every image of an earlier class as a new one. A few hundred steps on equally many images of each class undo that (Castro et
al., "End-to-End Incremental Learning", 2018). Distilled images are made for this use: a training on these images only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch

from atom_plugin.replay.batches import endless
from atom_plugin.transforms.augmentation import Augmentation

FINETUNE_STEPS = 500
"""Default number of steps after each experience; docs/continual-learning.md gives their effect."""


def fine_tune(
    strategy: Any, batches: Iterable[Any], *, steps: int, augmentation: Augmentation, generator: torch.Generator
) -> None:
    """Train the strategy's model for ``steps`` steps on ``batches`` of the memory, which repeat.

    The strategy's optimiser takes the steps: the first half at its learning rate, the second half at a tenth of it; afterwards
    the rate is restored. Each image is augmented separately, with draws from ``generator``.
    """
    groups = strategy.optimizer.param_groups
    rates = [group["lr"] for group in groups]
    strategy.model.train()
    for step, batch in enumerate(itertools.islice(endless(batches), steps)):
        if step == (steps + 1) // 2:
            for group in groups:
                group["lr"] *= 0.1
        images, *others = (part.to(strategy.device) for part in batch)
        strategy.mbatch = [augmentation.per_sample(images, generator), *others]
        strategy.optimizer.zero_grad()
        strategy.mb_output = strategy.forward()
        strategy.loss = strategy.criterion()
        strategy.backward()
        strategy.optimizer_step()
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate

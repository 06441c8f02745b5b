"""Balanced fine-tuning: after an experience, some training steps on the memory alone, which holds all classes alike.

While an experience is trained on, its classes outnumber those of the memory by hundreds to one, and the network calls nearly
every image of an earlier class one of the new. A few hundred steps on as many images of each class undo that (Castro et al.,
"End-to-End Incremental Learning", 2018). They also put distilled images to the use that these are made for: to train on alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch

from atom_plugin.integrations.avalanche.batches import endless
from atom_plugin.transforms.augmentation import Augmentation

FINETUNE_STEPS = 500
"""Steps after each experience where nothing else is said; docs/continual-learning.md has what they bring."""


def fine_tune(
    strategy: Any, batches: Iterable[Any], *, steps: int, augmentation: Augmentation, generator: torch.Generator
) -> None:
    """Train the strategy's model on ``batches`` of the memory, from the first again after the last, for ``steps`` steps.

    The strategy's optimiser takes them, at its own learning rate and from half of them on at a tenth of it; afterwards its rate
    is what it was. Each image is augmented on its own, drawn from ``generator``.
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

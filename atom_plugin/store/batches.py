"""Batches of a set's images for a user's own loop, augmented as in the set's distillation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader

from atom_plugin.errors import ConfigError
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.store.provenance import Provenance
from atom_plugin.store.torch_dataset import Item, LabelledImages
from atom_plugin.transforms.augmentation import DEFAULT_STRATEGY, Augmentation


def own_strategy(made: Provenance) -> str:
    """The siamese augmentation of the set's distillation; all its operations if the set names none."""
    config: Mapping[str, Any] = made.config
    if merged := config.get("merged"):
        config = merged[0].get("config", {})
    stored = config.get("augmentation")
    return stored if isinstance(stored, str) else DEFAULT_STRATEGY


def batches_of(
    dataset: LabelledImages, *, batch_size: int, strategy: str, shuffle: bool, seed: int
) -> DataLoader[Item]:
    """A loader of (float32 (n, C, H, W), int64 (n,) or soft targets float32 (n, classes)).

    Each image is augmented on its own by ``strategy``.

    Every pass draws new augmentations; equal seeds give equal passes. Raises ConfigError for a batch of no images, or an
    unknown strategy.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, not {batch_size}")
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        generator=generator_for(seed, "order"),
        collate_fn=_Augmented(Augmentation(strategy=strategy), generator_for(seed, "augmentation")),
    )


class _Augmented:
    """Items to a batch."""

    def __init__(self, augmentation: Augmentation, generator: torch.Generator) -> None:
        self._augmentation, self._generator = augmentation, generator

    def __call__(self, items: list[Item]) -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.stack([image for image, _ in items])
        targets = torch.stack([torch.as_tensor(target) for _, target in items])
        return self._augmentation.per_sample(images, self._generator), targets

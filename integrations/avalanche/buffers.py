"""A replay memory's images as an Avalanche dataset, which can be split and concatenated like a benchmark's datasets."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.benchmarks.utils.classification_dataset import TaskAwareSupervisedClassificationDataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.benchmarks.utils.flat_data import FlatData

from atom_plugin.replay.memory import ReplayMemory
from atom_plugin.store.torch_dataset import LabelledImages


class _Samples(LabelledImages):
    """A memory's images with the attributes that Avalanche reads from a dataset; decoded when the first of them is read."""

    def __init__(self, memory: ReplayMemory) -> None:
        self._stored = memory.images
        super().__init__(self._stored.decoded_labels)
        self.targets = self.labels.tolist()

    @cached_property
    def images(self) -> torch.Tensor:
        """All images as networks see them, float32 (N, C, H, W)."""
        return self._stored.decoded().images

    def gather(self, indices: list[int]) -> torch.Tensor:
        return self.images[indices]


def memory_dataset(memory: ReplayMemory) -> Any:
    """The memory's images as an Avalanche dataset of (x, y), or of (x, y, task) if the memory has tasks."""
    samples = _Samples(memory)
    if not memory.tasks:
        return as_classification_dataset(samples)
    tasks = _TaskLabels([[memory.tasks[label] for label in samples.targets]])
    attributes = [
        DataAttribute(samples.targets, "targets"),
        DataAttribute(tasks, "targets_task_labels", use_in_getitem=True),
    ]
    return TaskAwareSupervisedClassificationDataset([samples], data_attributes=attributes)


class _TaskLabels(FlatData):  # type: ignore[misc]
    """Task labels that can be concatenated with the constant task label of a benchmark's experience.

    Avalanche's task labels (0.6.0) support only the other order: ``stream.concat(buffer)``.
    """

    def concat(self, other: Any) -> Any:
        """These task labels followed by ``other``."""
        return super().concat(other if isinstance(other, FlatData) else type(self)([other]))

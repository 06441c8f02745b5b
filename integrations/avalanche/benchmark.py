"""A class-incremental benchmark from any image source, whose images are preprocessed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks import class_incremental_benchmark
from avalanche.benchmarks.utils import as_classification_dataset

from atom_plugin.datasets import SourceData, Split
from atom_plugin.errors import ConfigError
from atom_plugin.store.torch_dataset import LabelledImages
from atom_plugin.transforms.preprocessing import Preprocessing

_PIECE = 1024


def class_order(classes: int, order: int) -> list[int]:
    """The papers' class order with the number ``order``: ``numpy.random.seed(order); permutation(classes)``."""
    permuted: list[int] = np.random.RandomState(order).permutation(classes).tolist()
    return permuted


def split_classes(order: Sequence[int], steps: int) -> list[list[int]]:
    """The classes of each step: equally many, or one more in the first steps if they do not divide evenly.

    Raises ConfigError for more steps than classes.
    """
    if not 1 <= steps <= len(order):
        raise ConfigError(
            f"{len(order)} classes cannot be split into {steps} steps; choose 1 to {len(order)} steps (--steps)"
        )
    return [part.tolist() for part in np.array_split(np.asarray(order), steps)]


class PreparedImages(LabelledImages):
    """A split's images after ``preprocessing``, float32 in memory: 4 bytes a pixel.

    Whitening all images once takes a second; as a transform of each image it takes minutes in every epoch.
    """

    def __init__(self, split: Split, preprocessing: Preprocessing) -> None:
        super().__init__(split.labels)
        self.targets = split.labels.tolist()
        self._images = torch.empty(len(split), *split.image_shape)
        pieces = zip(self._images.split(_PIECE), split.parts(_PIECE), strict=True)
        for into, images in pieces:
            into.copy_(preprocessing.forward(images))

    def gather(self, indices: list[int]) -> torch.Tensor:
        """Copies of the preprocessed images."""
        return self._images[indices]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._images[index], self.targets[index]


def make_benchmark(data: SourceData, steps: Sequence[Sequence[int]], preprocessing: Preprocessing) -> Any:
    """An Avalanche benchmark with train and test streams of (x, y); the k-th experiences have the classes ``steps[k]``.

    Labels are the source's class ids. Raises ConfigError if a class has no training or no test images.
    """
    for name, split in (("training", data.train), ("test", data.test)):
        absent = sorted(set(range(len(data.class_names))) - set(split.labels.unique().tolist()))
        if absent:
            raise ConfigError(f"{data.name}: has no {name} images of the classes {absent}; a stream needs some of each")
    return class_incremental_benchmark(
        {
            "train": as_classification_dataset(PreparedImages(data.train, preprocessing)),
            "test": as_classification_dataset(PreparedImages(data.test, preprocessing)),
        },
        class_order=[label for classes in steps for label in classes],
        num_classes_per_exp=[len(classes) for classes in steps],
    )

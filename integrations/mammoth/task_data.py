"""A task of Mammoth's datasets: its images before augmentation, their classes, and their normalisation."""

from __future__ import annotations

from typing import Any

import torch

from atom_plugin.datasets import SourceData, Split
from atom_plugin.datasets.common import content_digest
from atom_plugin.errors import ConfigError, SourceError
from atom_plugin.runtime.randomness import preserved_random_state
from atom_plugin.transforms.preprocessing import Preprocessing, to_uint8


def task_source(dataset: Any) -> SourceData:
    """The current task's training images of a Mammoth ``ContinualDataset``, with Mammoth's class ids.

    The images before augmentation, the third part of each sample, are used. Unlabelled samples (-1) are left out. Random states
    are restored. Raises ConfigError if samples have no third part, or its values are outside [0, 1]; SourceError if no
    sample has a label.
    """
    samples = dataset.train_loader.dataset
    images, labels = [], []
    with preserved_random_state():  # a sample's first part is augmented; its draws must not change the training
        for index in range(len(samples)):
            sample = samples[index]
            if len(sample) < 3:
                raise ConfigError(
                    f"the dataset's samples have {len(sample)} parts, expected (image, class, image before augmentation); "
                    "give them the form of Mammoth's datasets"
                )
            if (label := int(sample[1])) >= 0:
                images.append(_pixels(sample[2]))
                labels.append(label)
    if not images:
        raise SourceError("the task has no labelled image to fill a memory from; raise --label_perc")
    split = Split(images=torch.stack(images), labels=torch.tensor(labels))
    names = class_names_of(dataset)
    return SourceData(
        name=dataset.NAME,
        train=split,
        test=split,
        class_names=names,
        fingerprint=content_digest(split, split, names),
        options={},
    )


def class_names_of(dataset: Any) -> tuple[str, ...]:
    """Names by Mammoth's class ids, which follow its class order; the ids if the dataset gives no names."""
    try:
        return tuple(map(str, dataset.get_class_names()))
    except NotImplementedError:
        return tuple(map(str, range(dataset.N_CLASSES)))


def normalisation_of(dataset: Any, image_shape: tuple[int, int, int]) -> Preprocessing:
    """The dataset's normalisation of images (C, H, W). Raises ConfigError if it does not have a mean and std."""
    transform = dataset.get_normalization_transform()
    channels = image_shape[0]
    if transform is None:
        return Preprocessing(mean=torch.zeros(channels), std=torch.ones(channels), image_shape=image_shape)
    try:
        mean, std = (torch.as_tensor(getattr(transform, name)).float().flatten() for name in ("mean", "std"))
    except AttributeError:
        raise ConfigError(
            f"the dataset normalises with {type(transform).__name__}, expected torchvision's Normalize, whose mean and std "
            "can be read; use Normalize"
        ) from None
    return Preprocessing(mean=mean.expand(channels), std=std.expand(channels), image_shape=image_shape)


def _pixels(image: Any) -> torch.Tensor:
    """uint8 (C, H, W) from the result of ``ToTensor``."""
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):  # also refuses NaN
        raise ConfigError(
            f"the images before augmentation hold values from {low:.3g} to {high:.3g}, expected [0, 1], the range of "
            "ToTensor; do not normalise them"
        )
    return to_uint8(image)

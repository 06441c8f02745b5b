"""What Mammoth's data sets say of a task: its images before augmentation, their classes, and how they are normalised."""

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

    Taken are the images before augmentation that each sample has as its third part. Unlabelled samples (-1) are left out, and
    random states are as before. Raises ConfigError where samples have no such part, or its values are outside [0, 1],
    SourceError where no sample has a label.
    """
    samples = dataset.train_loader.dataset
    images, labels = [], []
    with preserved_random_state():  # a sample's first part is augmented, with draws that the training must not miss
        for index in range(len(samples)):
            sample = samples[index]
            if len(sample) < 3:
                raise ConfigError(
                    f"the data set's samples have {len(sample)} parts, expected (image, class, image before augmentation); "
                    "make them as Mammoth's own data sets do"
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
    """Names by Mammoth's class ids, which follow its class order; the ids where the data set gives no names."""
    try:
        return tuple(map(str, dataset.get_class_names()))
    except NotImplementedError:
        return tuple(map(str, range(dataset.N_CLASSES)))


def normalisation_of(dataset: Any, image_shape: tuple[int, int, int]) -> Preprocessing:
    """What the data set's normalisation does to images (C, H, W). Raises ConfigError where that is no mean and std."""
    transform = dataset.get_normalization_transform()
    channels = image_shape[0]
    if transform is None:
        return Preprocessing(mean=torch.zeros(channels), std=torch.ones(channels), image_shape=image_shape)
    try:
        mean, std = (torch.as_tensor(getattr(transform, name)).float().flatten() for name in ("mean", "std"))
    except AttributeError:
        raise ConfigError(
            f"the data set normalises with {type(transform).__name__}, expected torchvision's Normalize, whose mean and std "
            "can be read; use one"
        ) from None
    return Preprocessing(mean=mean.expand(channels), std=std.expand(channels), image_shape=image_shape)


def _pixels(image: Any) -> torch.Tensor:
    """uint8 (C, H, W) of what ``ToTensor`` gives."""
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):  # so that NaN is refused, too
        raise ConfigError(
            f"the images before augmentation hold values from {low:.3g} to {high:.3g}, expected [0, 1] as ToTensor gives; do "
            "not normalise them"
        )
    return to_uint8(image)

"""A stream's samples: their layout, their raw images, and the preprocessing that the stream's transforms apply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks.scenarios import OnlineCLExperience

from atom_plugin.datasets import SourceData, Split
from atom_plugin.datasets.common import content_digest
from atom_plugin.errors import ConfigError
from atom_plugin.transforms.preprocessing import Preprocessing, to_uint8

_PROBES = 16
_TOLERANCE = 2e-3  # of a pixel: a step of 8 bits is 4e-3 on the [0, 1] scale, and half precision keeps 1e-3
_NOT_PLAIN = "no standardisation with one mean and std per channel (whitening, or an augmentation)"


def task_of(experience: Any) -> int | None:
    """The task label of an experience whose samples are (x, y, task); None for (x, y).

    Raises ConfigError for samples that do not have two or three parts, and for an experience with several tasks or no samples.
    """
    if not len(experience.dataset):
        raise ConfigError(
            "the experience has no samples, expected some of each of its classes; leave it out of the stream"
        )
    sample = experience.dataset[0]
    if not isinstance(sample, (tuple, list)):
        keys = f" with the keys {', '.join(map(str, sample))}" if isinstance(sample, Mapping) else ""
        raise ConfigError(
            f"the stream's samples have the type {type(sample).__name__}{keys}, expected (image, class) or (image, class, "
            "task label); wrap the dataset in one that gives tuples"
        )
    if len(sample) not in (2, 3):
        raise ConfigError(
            f"the stream's samples have {len(sample)} parts, expected (image, class) or (image, class, task label); wrap the "
            "dataset in one that gives these"
        )
    if len(sample) == 2:
        return None
    tasks = sorted({int(task) for task in getattr(experience.dataset, "targets_task_labels", [sample[2]])})
    if len(tasks) > 1:
        raise ConfigError(
            f"the experience has the tasks {tasks}, expected one; make a stream of one task per experience"
        )
    return tasks[0]


def classes_of(experience: Any) -> list[int]:
    """The class ids of an experience's samples, sorted."""
    return sorted({int(label) for label in experience.dataset.targets})


def classes_to_come(experience: Any) -> set[int]:
    """The class ids of the stream's later experiences, if Avalanche knows them; only their number is used."""
    with experience.no_attribute_masking():
        whole = getattr(experience, "origin_experience", experience)
    with whole.no_attribute_masking():
        return {int(label) for label in getattr(whole, "future_classes", None) or ()}


def begins(experience: Any) -> bool:
    """Whether this is a whole experience, or the first part of one in an online stream.

    Raises ConfigError for a part of an online stream that hides its boundaries: its experience is unknown, and
    distilling a few images at a time would spend the budget on noise.
    """
    if not isinstance(experience, OnlineCLExperience):
        return True
    if not experience.access_task_boundaries:
        raise ConfigError(
            "this online stream hides where an experience ends, so its parts cannot be collected for distillation; split it "
            "with split_online_stream(…, access_task_boundaries=True)"
        )
    return bool(experience.is_first_subexp)


def ends(experience: Any, parts: int) -> bool:
    """Whether an experience ends with this part, its ``parts``-th in an online stream."""
    if not isinstance(experience, OnlineCLExperience):
        return True
    # Avalanche (0.6.0) marks no part as the last if the experience's images divide into parts without remainder.
    return bool(experience.is_last_subexp) or parts == experience.sub_stream_length


def raw_images(datasets: Sequence[Any], class_names: Sequence[str] | None) -> SourceData:
    """The images of ``datasets`` before their transforms, as a source of uint8 images with the datasets' class ids.

    Images may be PIL, uint8 (H, W, C) arrays, uint8 (C, H, W) tensors, or float tensors on the [0, 1] scale (rounded to 8
    bits). Raises ConfigError for other floats, whose preprocessing is unknown.
    """
    raw = [_untransformed(dataset) for dataset in datasets]
    pixels = _stack([_pixels(data[index][0]) for data in raw for index in range(len(data))])
    images = pixels if pixels.dtype == torch.uint8 else to_uint8(pixels)
    labels = torch.tensor([int(label) for data in datasets for label in data.targets])
    names = tuple(class_names or map(str, range(int(labels.max()) + 1)))
    if int(labels.min()) < 0 or int(labels.max()) >= len(names):
        raise ConfigError(
            f"the stream's class ids run from {int(labels.min())} to {int(labels.max())}, but there are {len(names)} class "
            "names; give one for each class of the benchmark"
        )
    split = Split(images=images, labels=labels)
    digest = content_digest(split, split, names)
    return SourceData(name="stream", train=split, test=split, class_names=names, fingerprint=digest, options={})


def infer_preprocessing(dataset: Any) -> Preprocessing:
    """The standardisation of the transforms for evaluation, estimated from some images before and after them.

    Raises ConfigError for other transforms, e.g. whitening or an augmentation.
    """
    before, after = _probe(dataset)
    found = _standardisation(before, after)
    if found is None:
        raise ConfigError(
            f"the stream's transforms do {_NOT_PLAIN}; state their preprocessing with stream_preprocessing=, and apply it to "
            "the stream with PreprocessingTransform"
        )
    return found


def check_size(dataset: Any, expected: Preprocessing) -> None:
    """Raises ConfigError, naming both sizes, unless the transforms for evaluation give images of the size ``expected``."""
    found = tuple(getattr(dataset.eval()[0][0], "shape", ()))
    if found != expected.image_shape:
        raise ConfigError(
            f"the stated preprocessing of the stream gives images of {expected.image_shape}, but its transforms give "
            f"{found or 'no tensors'}; describe the transforms with stream_preprocessing="
        )


def check_preprocessing(dataset: Any, expected: Preprocessing) -> None:
    """Raises ConfigError, naming both, unless the transforms for evaluation change an image as ``expected`` does.

    Their results on some images are compared, not their names: transforms are any callables.
    """
    before, after = _probe(dataset)
    if after.shape[1:] != expected.image_shape:
        raise ConfigError(
            f"the memory's images are {expected.image_shape}, the stream's {tuple(after.shape[1:])}; make both the same size"
        )
    difference = float((expected.forward(before) - after).abs().max())
    if not difference <= _TOLERANCE * float(1 / expected.std.min()):
        found = _standardisation(before, after)
        raise ConfigError(
            f"the memory's preprocessing is {expected.describe()}, but the stream's transforms do "
            f"{_NOT_PLAIN if found is None else found.describe()}; transform the stream with the memory's preprocessing "
            "(PreprocessingTransform), or make the set with the stream's"
        )


class PreprocessingTransform:
    """A stream's transform that applies a set's preprocessing: PIL image, uint8 or [0, 1] float tensor to float (C, H, W)."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    def __call__(self, image: Any) -> torch.Tensor:
        """One image, preprocessed."""
        return self.preprocessing.forward(_pixels(image)[None])[0]


def _untransformed(dataset: Any) -> Any:
    # The training group is selected first: Avalanche (0.6.0) removes the current transform group of each nested dataset,
    # and that group stays "train" there, whichever group the outer dataset selects.
    return dataset.train().remove_current_transform_group()


def _pixels(image: Any) -> torch.Tensor:
    """(C, H, W), uint8 or float in [0, 1]."""
    if isinstance(image, torch.Tensor):
        pixels: torch.Tensor = image
    else:
        array = np.array(image)  # a PIL image, or an array
        pixels = torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1)
    if pixels.dtype == torch.uint8:
        return pixels
    pixels = pixels.float()
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):  # also refuses NaN
        raise ConfigError(
            f"the stream's images hold values from {low:.3g} to {high:.3g} before any transform, expected 8-bit images or "
            "floats in [0, 1]; if they are already processed, describe that with stream_preprocessing= and give the real "
            "images as source="
        )
    return pixels


def _stack(images: list[torch.Tensor]) -> torch.Tensor:
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) > 1:
        raise ConfigError(
            f"the stream's images have several sizes, e.g. {shapes[0]} and {shapes[-1]}; resize them before the stream "
            "is made"
        )
    return torch.stack(images)


def _probe(dataset: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Some images (N, C, H, W), spread over the dataset, before and after its transforms for evaluation."""
    seen, raw = dataset.eval(), _untransformed(dataset)
    indices = torch.linspace(0, len(dataset) - 1, min(_PROBES, len(dataset))).long().tolist()
    before = _stack([_pixels(raw[index][0]) for index in indices])
    after = [seen[index][0] for index in indices]
    if not all(isinstance(image, torch.Tensor) for image in after):
        raise ConfigError(
            "the stream's transforms do not give tensors; add ToTensor, or PreprocessingTransform, to them"
        )
    transformed = _stack(after).float()
    if before.shape != transformed.shape:
        raise ConfigError(
            f"the stream's transforms change images of {tuple(before.shape[1:])} to {tuple(transformed.shape[1:])}; resize "
            "the images before the stream is made"
        )
    return before, transformed


def _standardisation(before: torch.Tensor, after: torch.Tensor) -> Preprocessing | None:
    """The mean and standard deviation per channel that explain the change of the images, if there are any."""
    scale = 255.0 if before.dtype == torch.uint8 else 1.0
    means, stds = [], []
    for raw, seen in zip((before.double() / scale).unbind(1), after.double().unbind(1), strict=True):
        x, y = raw.flatten(), seen.flatten()
        centred = x - x.mean()
        slope = (centred @ (y - y.mean())) / centred.square().sum().clamp_min(1e-12)
        offset = y.mean() - slope * x.mean()
        if float(slope) <= 0 or float((slope * x + offset - y).abs().max()) > _TOLERANCE * float(slope):
            return None
        # Six digits recover the constants that the user typed.
        stds.append(round(float(1 / slope), 6))
        means.append(round(float(-offset / slope), 6))
    channels, height, width = before.shape[1:]
    return Preprocessing(
        mean=torch.tensor(means), std=torch.tensor(stds), image_shape=(int(channels), int(height), int(width))
    )

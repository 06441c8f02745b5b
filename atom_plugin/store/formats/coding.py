"""Codings of pixels in files: the exact conversion between two preprocessings, and the loaders of other toolkits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from atom_plugin.errors import ConfigError
from atom_plugin.transforms.preprocessing import Preprocessing
from atom_plugin.transforms.whitening import DATADAM_EPS, inverted

Constants = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel, on the [0, 1] scale."""

# The constants of DatasetCondensation's `get_dataset`, by the names of this package's sources; tinyimagenet, which is a
# folder source here, by these toolkits' name.
DATASET_CONDENSATION: dict[str, Constants] = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion-mnist": ((0.2861,), (0.3530,)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tinyimagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
# MTT's and DD-Ranking's loaders standardise CIFAR-100 with the constants of CIFAR-10.
CIFAR10_FOR_BOTH = DATASET_CONDENSATION | {"cifar100": DATASET_CONDENSATION["cifar10"]}

_CHUNK = 512


@dataclass(frozen=True, kw_only=True)
class Toolkit:
    """The loader of a toolkit: ``constants`` by dataset; whether its ZCA (eps 0.1) takes plain [0, 1] images, as MTT's does, or
    standardised ones, as DataDAM's. ``stores_zca``: whether its sets are stored whitened if it whitens.
    """

    name: str
    constants: Mapping[str, Constants]
    zca_on_plain: bool = False
    stores_zca: bool = False

    def whitens_like(self, preprocessing: Preprocessing) -> bool:
        """Whether ``preprocessing`` is this toolkit's recipe for ZCA."""
        whitening = preprocessing.whitening
        return (
            whitening is not None
            and is_identity(preprocessing) == self.zca_on_plain
            and abs(whitening.eps - DATADAM_EPS) < 1e-9
        )


def convert(images: torch.Tensor, found: Preprocessing | None, wanted: Preprocessing) -> torch.Tensor:
    """Images (N, C, H, W) in the coding ``found``, converted to the coding ``wanted``, float32.

    ``found`` None means images in [0, 1], or uint8. Computed in float64 throughout, including the inverse of a ZCA, so that
    true colours differ by no more than the rounding of the stored float32. Equal codings give equal values.
    """
    if found is not None and found.matches(wanted):
        return images.float()
    undo, redo = _affine(found, inverse=True), _affine(wanted, inverse=False)
    parts = [redo(undo(part)).to(torch.float32) for part in images.split(_CHUNK)]
    return torch.cat(parts) if parts else images.float()


def standardised(constants: Constants, image_shape: tuple[int, int, int]) -> Preprocessing:
    """The preprocessing of images standardised with ``constants``. Raises ConfigError unless there is one per channel."""
    for name, values in zip(("mean", "std"), constants, strict=True):
        if len(values) != image_shape[0]:
            raise ConfigError(
                f"{name} has {len(values)} values, but images have {image_shape[0]} channels; give one each"
            )
    mean, std = constants
    return Preprocessing(mean=torch.tensor(mean), std=torch.tensor(std), image_shape=image_shape)


def without_whitening(preprocessing: Preprocessing) -> Preprocessing:
    """The preprocessing without its whitening."""
    return Preprocessing(mean=preprocessing.mean, std=preprocessing.std, image_shape=preprocessing.image_shape)


def is_identity(preprocessing: Preprocessing) -> bool:
    """Whether mean and standard deviation leave images unchanged; ignores whitening."""
    return bool((preprocessing.mean == 0).all() and (preprocessing.std == 1).all())


def per_channel(name: str, value: Any) -> tuple[float, ...] | None:
    """An option such as ``0.49,0.48,0.45``, a list or one number, as floats. Raises ConfigError."""
    if value is None:
        return None
    items: Sequence[Any] = (
        value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    )
    try:
        numbers = tuple(float(item) for item in items)
    except (TypeError, ValueError):
        numbers = ()
    fits = bool(numbers) and all(abs(number) < float("inf") for number in numbers)
    if not fits or (name == "std" and min(numbers) <= 0):
        bound = " above 0" if name == "std" else ""
        raise ConfigError(f"{name} must be finite numbers{bound}, one per channel, e.g. 0.5,0.4,0.4; found {value!r}")
    return numbers


def both_or_none(mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> Constants | None:
    """Mean and std together. Raises ConfigError if only one is given."""
    if mean is None or std is None:
        if mean is not std:
            raise ConfigError("found a mean without a std, or a std without a mean; give both")
        return None
    return mean, std


def _affine(preprocessing: Preprocessing | None, *, inverse: bool) -> Any:
    """The map from pixels to coded pixels, or back, as a function on float64 or other images (n, C, H, W)."""
    if preprocessing is None:
        return lambda images: images.double() / 255 if images.dtype == torch.uint8 else images.double()
    mean, std = (values.double().cpu().view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    whitening = preprocessing.whitening
    if whitening is None:
        if inverse:
            return lambda images: images.double() * std + mean
        return lambda images: (images.double() - mean) / std
    centre, matrix = whitening.mean.double().cpu(), whitening.matrix.double().cpu()
    if inverse:
        back = inverted(matrix)
        return lambda images: (images.double().flatten(1) @ back.T + centre).view(images.shape) * std + mean
    return lambda images: ((((images.double() - mean) / std).flatten(1) - centre) @ matrix.T).view(images.shape)

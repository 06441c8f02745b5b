"""Differentiable siamese augmentation (Zhao & Bilen, 2021) on grouped images (K, n, C, H, W).

Per class and step one operation is drawn among colour, crop, cutout, flip, scale and rotate, with one set of parameters
for all n images of the class; a class's real and synthetic batch share them, whatever their n. Per-sample augmentation,
for training, is the same with every image a class of its own.

Strengths, as in the released codes of DSA, DM and DataDAM: brightness 1.0, saturation 2.0, contrast 0.5, crop padding
0.125, cutout side 0.5, flip probability 0.5, scale 1.2, rotation 15 degrees. Two choices: the geometric operations
resample bilinearly with ``align_corners=False`` and zeros outside; and each class draws its own operation, where the
released codes, which loop over classes, do the same by drawing a seed per class.

Parameters are drawn on the CPU, so that one seed gives the same draw on every device and no operation waits for a device.
Crop, flip, scale and rotate are one affine map per class. Where the host knows the draw (:meth:`Draw.apply`), each class
passes through what it drew; where only the device does, as in a captured graph (:func:`augment`), every class passes through
all of it, and keeps what it drew.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import reduce

import torch

from atom_plugin.errors import ConfigError
from atom_plugin.transforms.resampling import resample

OPERATIONS = ("color", "crop", "cutout", "flip", "scale", "rotate")
DEFAULT_STRATEGY = "color_crop_cutout_flip_scale_rotate"
_UNIFORMS = 4  # the most random numbers that any one operation needs


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Which operations may be drawn, and how strong they are. ``strategy`` joins names with ``_``; "none" is none."""

    strategy: str = DEFAULT_STRATEGY
    brightness: float = 1.0
    saturation: float = 2.0
    contrast: float = 0.5
    crop_pad: float = 0.125
    cutout: float = 0.5
    flip: float = 0.5
    scale: float = 1.2
    rotate: float = 15.0

    def __post_init__(self) -> None:
        unknown = [name for name in self.operations if name not in OPERATIONS]
        if unknown:
            raise ConfigError(
                f"unknown augmentation {', '.join(map(repr, unknown))}; join some of {', '.join(OPERATIONS)} with '_', "
                "or say 'none'"
            )

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations that may be drawn."""
        return () if self.strategy == "none" else tuple(self.strategy.split("_"))

    def draw(self, groups: int, generator: torch.Generator) -> Draw:
        """One operation and its parameters for each of ``groups`` classes. ``generator`` lives on the CPU."""
        choice = torch.randint(max(1, len(self.operations)), (groups,), generator=generator)
        return Draw(augmentation=self, choice=choice, uniforms=torch.rand(groups, _UNIFORMS, generator=generator))

    def per_sample(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Images (N, C, H, W), each with an operation and parameters of its own."""
        return self.draw(len(images), generator).apply(images.unsqueeze(1)).squeeze(1)


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What one step does to each class. ``choice`` is int64 (K,), ``uniforms`` float32 (K, 4) in [0, 1), on the CPU."""

    augmentation: Augmentation
    choice: torch.Tensor
    uniforms: torch.Tensor

    def of(self, classes: range) -> Draw:
        """The same for some of the classes."""
        rows = slice(classes.start, classes.stop)
        return replace(self, choice=self.choice[rows], uniforms=self.uniforms[rows])

    def apply(self, images: torch.Tensor) -> torch.Tensor:
        """Augment (K, n, C, H, W), differentiably. The same draw does the same to another batch of these classes."""
        order, parts = [], []
        for operation, drawn in _drawn_operations(self.augmentation, self.choice):
            rows = drawn.nonzero().flatten()
            if len(rows):
                order.append(rows)
                chosen = images.index_select(0, rows.to(images.device, non_blocking=True))
                choice = self.choice[rows].to(images.device, non_blocking=True)
                uniforms = self.uniforms[rows].to(images, non_blocking=True)
                parts.append(operation(self.augmentation, chosen, choice, uniforms))
        if not parts:
            return images
        back = torch.cat(order).argsort().to(images.device, non_blocking=True)
        return torch.cat(parts).index_select(0, back)


def augment(settings: Augmentation, images: torch.Tensor, choice: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """As ``Draw(settings, choice, uniforms).apply(images)``, with static shapes and nothing that the host waits for.

    ``choice`` is int64 (K,), ``uniforms`` (K, 4) of the images' type, both on their device.
    """
    for operation, drawn in _drawn_operations(settings, choice):
        images = torch.where(_per_class(drawn), operation(settings, images, choice, uniforms), images)
    return images


_Operation = Callable[[Augmentation, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def _drawn_operations(settings: Augmentation, choice: torch.Tensor) -> Iterator[tuple[_Operation, torch.Tensor]]:
    """What classes pass through, and which of them, bool (K,); each class passes through one."""
    operations: tuple[tuple[tuple[str, ...], _Operation], ...] = (
        (tuple(_MAPS), _move),
        (("color",), _color),
        (("cutout",), _cutout),
    )
    for names, operation in operations:
        if any(name in settings.operations for name in names):
            yield operation, _drew(settings, choice, *names)


def _drew(settings: Augmentation, choice: torch.Tensor, *names: str) -> torch.Tensor:
    """Which classes drew one of the operations ``names``, bool (K,). A strategy may say a name twice."""
    return reduce(operator.or_, (choice == index for index, name in enumerate(settings.operations) if name in names))


def _color(settings: Augmentation, images: torch.Tensor, choice: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Brightness, saturation and contrast, by three of each class's uniforms."""
    shift, saturation, contrast = (_per_class(uniforms[:, i]) for i in range(3))
    images = images + (shift - 0.5) * settings.brightness
    grey = images.mean(2, keepdim=True)
    images = (images - grey) * (saturation * settings.saturation) + grey
    level = images.mean((2, 3, 4), keepdim=True)
    return (images - level) * (contrast + settings.contrast) + level


def _cutout(settings: Augmentation, images: torch.Tensor, choice: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Zero a square whose centre may lie anywhere in the image."""
    rows = _covered(uniforms[:, 0], images.shape[-2], settings.cutout)
    columns = _covered(uniforms[:, 1], images.shape[-1], settings.cutout)
    hole = rows[:, :, None] & columns[:, None, :]
    return images.masked_fill(hole[:, None, None], 0.0)


def _covered(uniform: torch.Tensor, side: int, ratio: float) -> torch.Tensor:
    """(K, side), true where a stretch of ``ratio`` of the side, centred at a drawn pixel, covers."""
    size = int(side * ratio + 0.5)
    first = (uniform * (side + (1 - size % 2))).long() - size // 2
    distance = torch.arange(side, device=uniform.device) - first[:, None]
    return (distance >= 0) & (distance < size)


def _move(settings: Augmentation, images: torch.Tensor, choice: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Each class under the affine map of the geometric operation that it drew; of any of them where it drew another."""
    size = images.shape[-2:]
    maps: torch.Tensor | None = None
    for name, maps_of in _MAPS.items():
        if name in settings.operations:
            found = _affine(uniforms, *maps_of(settings, uniforms, size))
            maps = found if maps is None else torch.where(_drew(settings, choice, name).view(-1, 1, 1), found, maps)
    assert maps is not None  # one of them can be drawn, or nobody asks
    return resample(images, maps, _reach(settings, size[0] / size[1]))


def _affine(like: torch.Tensor, *entries: torch.Tensor | float) -> torch.Tensor:
    """(K, 2, 3) from six entries (K,) or numbers, by rows: from places in the result to places in the source.

    Places run from -1 to 1, x before y, as ``torch.nn.functional.affine_grid`` has them.
    """
    one = torch.ones_like(like[:, 0])
    return torch.stack([entry * one for entry in entries], dim=1).view(-1, 2, 3)


_Entries = tuple["torch.Tensor | float", ...]


def _crop(settings: Augmentation, uniforms: torch.Tensor, size: torch.Size) -> _Entries:
    """Shift by whole pixels, up to the padding either way, with zeros moving in."""
    shifts = []
    for axis, side in enumerate(size):
        pad = int(side * settings.crop_pad + 0.5)
        shifts.append(((uniforms[:, axis] * (2 * pad + 1)).long() - pad).to(uniforms.dtype) * (2 / side))
    return 1.0, 0.0, shifts[1], 0.0, 1.0, shifts[0]


def _flip(settings: Augmentation, uniforms: torch.Tensor, size: torch.Size) -> _Entries:
    """Left and right exchanged, or nothing."""
    return 1.0 - 2.0 * (uniforms[:, 0] < settings.flip), 0.0, 0.0, 0.0, 1.0, 0.0


def _scale(settings: Augmentation, uniforms: torch.Tensor, size: torch.Size) -> _Entries:
    """Each axis by a factor of its own."""
    low = 1.0 / settings.scale
    x, y = (low + uniforms[:, axis] * (settings.scale - low) for axis in range(2))
    return x, 0.0, 0.0, 0.0, y, 0.0


def _rotate(settings: Augmentation, uniforms: torch.Tensor, size: torch.Size) -> _Entries:
    """About the centre."""
    angle = (uniforms[:, 0] - 0.5) * 2 * settings.rotate * math.pi / 180
    return angle.cos(), -angle.sin(), 0.0, angle.sin(), angle.cos(), 0.0


_MAPS: dict[str, Callable[[Augmentation, torch.Tensor, torch.Size], _Entries]] = {
    "crop": _crop,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}


def _reach(settings: Augmentation, aspect: float) -> int:
    """How many pixels a source pixel's footprint reaches in the result, rounded up: the row sums of the inverse maps."""
    half = 1.0
    if "scale" in settings.operations:
        half = max(half, settings.scale, 1 / settings.scale)
    if "rotate" in settings.operations:
        angle = math.radians(settings.rotate)
        half = max(half, math.cos(angle) + math.sin(angle) * max(aspect, 1 / aspect))
    return math.ceil(half)


def _per_class(values: torch.Tensor) -> torch.Tensor:
    return values.view(-1, 1, 1, 1, 1)

"""Differentiable siamese augmentation (Zhao & Bilen, 2021) on grouped images (K, n, C, H, W).

Per class and step one operation is drawn among colour, crop, cutout, flip, scale and rotate, with one set of parameters
for all n images of the class; a class's real and synthetic batch share them, whatever their n. Per-sample augmentation,
for training, is the same with every image a class of its own.

Strengths, as in the released codes of DSA, DM and DataDAM: brightness 1.0, saturation 2.0, contrast 0.5, crop padding
0.125, cutout side 0.5, flip probability 0.5, scale 1.2, rotation 15 degrees. Two choices: the geometric operations
resample bilinearly with ``align_corners=False`` and zeros outside; and each class draws its own operation, where the
released codes, which loop over classes, do the same by drawing a seed per class.

Parameters are drawn on the CPU, so that one seed gives the same draw on every device and no operation waits for a device;
work is grouped by operation, at most six passes over disjoint parts of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from atom_plugin.errors import ConfigError
from atom_plugin.runtime.device import full_precision
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
        operations = self.augmentation.operations
        if not operations:
            return images
        order, parts = [], []
        for index, name in enumerate(operations):
            rows = (self.choice == index).nonzero().flatten()
            if len(rows):
                order.append(rows)
                uniforms = self.uniforms[rows].to(images, non_blocking=True)
                chosen = images.index_select(0, rows.to(images.device, non_blocking=True))
                parts.append(_FUNCTIONS[name](self.augmentation, chosen, uniforms))
        back = torch.cat(order).argsort().to(images.device, non_blocking=True)
        return torch.cat(parts).index_select(0, back)


def color(settings: Augmentation, images: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Brightness, saturation and contrast of (K, n, C, H, W), by three of each class's uniforms (K, 4)."""
    shift, saturation, contrast = (uniforms[:, i].view(-1, 1, 1, 1, 1) for i in range(3))
    images = images + (shift - 0.5) * settings.brightness
    grey = images.mean(2, keepdim=True)
    images = (images - grey) * (saturation * settings.saturation) + grey
    level = images.mean((2, 3, 4), keepdim=True)
    return (images - level) * (contrast + settings.contrast) + level


def _crop(settings: Augmentation, images: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Shift by whole pixels, up to the padding either way, with zeros moving in."""
    height, width = images.shape[-2:]
    rows, columns = (
        _shifted(crop_shifts(settings, uniforms[:, axis], side), side) for axis, side in enumerate((height, width))
    )
    # Index height or width is the padding's zero.
    padded = F.pad(images, (0, 1, 0, 1))
    shape = (*images.shape[:3], height, width + 1)
    picked = padded.gather(3, rows.view(-1, 1, 1, height, 1).expand(shape))
    return picked.gather(4, columns.view(-1, 1, 1, 1, width).expand(images.shape))


def crop_shifts(settings: Augmentation, uniform: torch.Tensor, side: int) -> torch.Tensor:
    """(K,) whole pixels, from -padding to padding of a side: place i shows what was at i + shift."""
    pad = int(side * settings.crop_pad + 0.5)
    return (uniform * (2 * pad + 1)).long() - pad


def _shifted(shift: torch.Tensor, side: int) -> torch.Tensor:
    """(K, side) source indices; ``side`` marks a place outside the image."""
    index = torch.arange(side, device=shift.device) + shift[:, None]
    return torch.where((index >= 0) & (index < side), index, side)


def cutout(settings: Augmentation, images: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Zero a square of (K, n, C, H, W), whose centre may lie anywhere in the image."""
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


def _flip(settings: Augmentation, images: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    flipped = (uniforms[:, 0] < settings.flip).view(-1, 1, 1, 1, 1)
    return torch.where(flipped, images.flip(4), images)


def _scale(settings: Augmentation, images: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    return _resample(settings, images, scale_maps(settings, uniforms))


def scale_maps(settings: Augmentation, uniforms: torch.Tensor) -> torch.Tensor:
    """(K, 2, 3) affine maps, as ``affine_grid`` takes them."""
    low = 1.0 / settings.scale
    factors = low + uniforms[:, :2] * (settings.scale - low)
    zero = torch.zeros_like(factors[:, 0])
    theta = torch.stack([factors[:, 0], zero, zero, zero, factors[:, 1], zero], dim=1)
    return theta.view(-1, 2, 3)


def _rotate(settings: Augmentation, images: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    return _resample(settings, images, rotate_maps(settings, uniforms))


def rotate_maps(settings: Augmentation, uniforms: torch.Tensor) -> torch.Tensor:
    """(K, 2, 3) affine maps, as ``affine_grid`` takes them."""
    angle = (uniforms[:, 0] - 0.5) * 2 * settings.rotate * math.pi / 180
    zero = torch.zeros_like(angle)
    theta = torch.stack([angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero], dim=1)
    return theta.view(-1, 2, 3)


def reach(settings: Augmentation, aspect: float) -> int:
    """How many pixels a source pixel's footprint reaches in the result, rounded up: the row sums of the inverse maps."""
    half = 1.0
    if "scale" in settings.operations:
        half = max(half, settings.scale, 1 / settings.scale)
    if "rotate" in settings.operations:
        angle = math.radians(settings.rotate)
        half = max(half, math.cos(angle) + math.sin(angle) * max(aspect, 1 / aspect))
    return math.ceil(half)


def _resample(settings: Augmentation, images: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Apply a (K, 2, 3) affine map per class: its n images ride through ``grid_sample`` as one of n * C channels."""
    groups, count, channels, height, width = images.shape
    if images.device.type == "cuda":  # whose own gradient differs from run to run
        return resample(images, theta, reach(settings, height / width))
    stacked = images.reshape(groups, count * channels, height, width)
    with full_precision(images.device):  # the grid is a matrix product
        grid = F.affine_grid(theta, [groups, 1, height, width], align_corners=False)
    return F.grid_sample(stacked, grid, align_corners=False).view_as(images)


_Function = Callable[[Augmentation, torch.Tensor, torch.Tensor], torch.Tensor]
_FUNCTIONS: dict[str, _Function] = {
    "color": color,
    "crop": _crop,
    "cutout": cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}

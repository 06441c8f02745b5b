"""Differentiable siamese augmentation (Zhao & Bilen, 2021) on grouped images (K, n, C, H, W).

Per class and step one operation is drawn among colour, crop, cutout, flip, scale and rotate, with one set of parameters for all
n images of the class; a class's real and synthetic batch share them, whatever their n. Per-sample augmentation, for training,
is the same with every image a class of its own.

Strengths, as in the released codes of DSA, DM and DataDAM: brightness 1.0, saturation 2.0, contrast 0.5, crop padding 0.125,
cutout side 0.5, flip probability 0.5, scale 1.2, rotation 15 degrees. Two choices: the geometric operations resample bilinearly
with ``align_corners=False`` and zeros outside; and each class draws its own operation, where the released codes, which loop
over classes, do the same by drawing a seed per class.

Parameters are drawn on the CPU, so that one seed gives the same draw on every device and no operation waits for a device. On
the CPU they become a *plan*: a row of numbers per class with the kind of operation, its affine map (crop, flip, scale and
rotate are one each), its colour factors and the borders of its cutout. If the host knows the plan (:meth:`Draw.apply`), each
class passes only through the operation that it drew; if only the device does, as in a captured graph (:func:`augment`), every
class passes through all operations, and keeps the result of the one it drew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from atom_plugin.errors import ConfigError
from atom_plugin.transforms.resampling import resample

OPERATIONS = ("color", "crop", "cutout", "flip", "scale", "rotate")
DEFAULT_STRATEGY = "color_crop_cutout_flip_scale_rotate"
_UNIFORMS = 4  # the most random numbers that any one operation needs
PLAN_COLUMNS = (
    14  # the kind; the map by rows; shift, saturation, contrast; top, bottom, left, right (augmentation_kernels)
)
_MOVE, _COLOR, _CUTOUT = 1, 2, 3  # kinds; 0 is nothing


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Which operations may be drawn, and how strong they are. ``strategy`` joins names with ``_``; "none" means none."""

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
                f"unknown augmentation {', '.join(map(repr, unknown))}; join some of {', '.join(OPERATIONS)} with "
                "'_', or give 'none'"
            )

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations that may be drawn."""
        return () if self.strategy == "none" else tuple(self.strategy.split("_"))

    def draw(self, groups: int, generator: torch.Generator) -> Draw:
        """One operation and its parameters for each of ``groups`` classes. ``generator`` is a CPU generator."""
        choice = torch.randint(max(1, len(self.operations)), (groups,), generator=generator)
        return Draw(augmentation=self, choice=choice, uniforms=torch.rand(groups, _UNIFORMS, generator=generator))

    def plan(self, choice: torch.Tensor, uniforms: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """The operation on each class's images of ``size`` pixels, (K, :data:`PLAN_COLUMNS`) of the type of ``uniforms``.

        ``choice`` (K,) and ``uniforms`` (K, 4) are the fields of a :class:`Draw`, on any device.
        """
        kinds = torch.tensor([_KINDS[name] for name in self.operations] or [0], device=choice.device)[choice]
        cut = kinds == _CUTOUT
        columns: list[torch.Tensor | float] = [
            kinds.to(uniforms.dtype),
            *_map(self, choice, uniforms, size),
            (uniforms[:, 0] - 0.5) * self.brightness,
            uniforms[:, 1] * self.saturation,
            uniforms[:, 2] + self.contrast,
            *(border * cut for border in _hole(uniforms[:, 0], size[0], self.cutout)),
            *(border * cut for border in _hole(uniforms[:, 1], size[1], self.cutout)),
        ]
        return torch.stack([_column(entry, uniforms) for entry in columns], dim=1)

    def reach(self, size: Sequence[int]) -> int:
        """How many pixels of the result a source pixel's footprint reaches, rounded up: row sums of the inverse maps."""
        aspect, half = size[0] / size[1], 1.0
        if "scale" in self.operations:
            half = max(half, self.scale, 1 / self.scale)
        if "rotate" in self.operations:
            angle = math.radians(self.rotate)
            half = max(half, math.cos(angle) + math.sin(angle) * max(aspect, 1 / aspect))
        return math.ceil(half)

    def per_sample(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Augment images (N, C, H, W), each with its own operation and parameters."""
        return self.draw(len(images), generator).apply(images.unsqueeze(1)).squeeze(1)


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The operation of one step on each class. ``choice`` is int64 (K,), ``uniforms`` float32 (K, 4) in [0, 1), on the CPU."""

    augmentation: Augmentation
    choice: torch.Tensor
    uniforms: torch.Tensor

    def of(self, classes: range) -> Draw:
        """The draw for some of the classes."""
        rows = slice(classes.start, classes.stop)
        return replace(self, choice=self.choice[rows], uniforms=self.uniforms[rows])

    def plan(self, size: tuple[int, int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The :meth:`Augmentation.plan` of this draw, on the CPU."""
        return self.augmentation.plan(self.choice, self.uniforms.to(dtype), size)

    def apply(self, images: torch.Tensor) -> torch.Tensor:
        """Augment (K, n, C, H, W), differentiably. The same draw gives the same operation to another batch of these classes."""
        plan = self.plan((images.shape[-2], images.shape[-1]), images.dtype)
        order, parts = [], []
        for kind, operation in _OPERATIONS.items():
            rows = (plan[:, 0] == kind).nonzero().flatten()
            if len(rows):
                order.append(rows)
                chosen = images.index_select(0, rows.to(images.device, non_blocking=True))
                parts.append(operation(self.augmentation, chosen, plan[rows].to(images.device, non_blocking=True)))
        if not parts:
            return images
        back = torch.cat(order).argsort().to(images.device, non_blocking=True)
        return torch.cat(parts).index_select(0, back)


def augment(settings: Augmentation, images: torch.Tensor, plan: torch.Tensor) -> torch.Tensor:
    """As :meth:`Draw.apply` of the draw from which ``settings`` made ``plan``, with static shapes and no synchronisation.

    ``plan`` (K, :data:`PLAN_COLUMNS`) has the type and the device of the images (K, n, C, H, W).
    """
    drawable = {_KINDS[name] for name in settings.operations}
    for kind, operation in _OPERATIONS.items():
        if kind in drawable:
            images = torch.where(_per_class(plan[:, 0] == kind), operation(settings, images, plan), images)
    return images


def _move(settings: Augmentation, images: torch.Tensor, plan: torch.Tensor) -> torch.Tensor:
    """Each class under its affine map."""
    return resample(images, plan[:, 1:7].unflatten(1, (2, 3)), settings.reach(images.shape[-2:]))


def _color(settings: Augmentation, images: torch.Tensor, plan: torch.Tensor) -> torch.Tensor:
    """Brightness, saturation and contrast."""
    shift, saturation, contrast = (_per_class(column) for column in plan[:, 7:10].unbind(1))
    images = images + shift
    grey = images.mean(2, keepdim=True)
    images = (images - grey) * saturation + grey
    level = images.mean((2, 3, 4), keepdim=True)
    return (images - level) * contrast + level


def _cutout(settings: Augmentation, images: torch.Tensor, plan: torch.Tensor) -> torch.Tensor:
    """Zero a square whose centre may be anywhere in the image."""
    rows, columns = (
        _covered(plan[:, first : first + 2], side) for first, side in zip((10, 12), images.shape[-2:], strict=True)
    )
    hole = rows[:, :, None] & columns[:, None, :]
    return images.masked_fill(hole[:, None, None], 0.0)


def _covered(borders: torch.Tensor, side: int) -> torch.Tensor:
    """(K, side), true between the two ``borders`` (K, 2)."""
    pixel = torch.arange(side, device=borders.device)
    return (pixel >= borders[:, :1]) & (pixel < borders[:, 1:])


_OPERATIONS: dict[int, Callable[[Augmentation, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    _MOVE: _move,
    _COLOR: _color,
    _CUTOUT: _cutout,
}

_Entry = torch.Tensor | float  # of each class, or of all
_Entries = tuple["_Entry", "_Entry", "_Entry", "_Entry", "_Entry", "_Entry"]


def _hole(uniform: torch.Tensor, side: int, ratio: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The beginning and end of a stretch of ``ratio`` of the side, centred at a drawn pixel."""
    size = int(side * ratio + 0.5)
    first = (uniform * (side + (1 - size % 2))).long() - size // 2
    return first.to(uniform.dtype), (first + size).to(uniform.dtype)


def _map(settings: Augmentation, choice: torch.Tensor, uniforms: torch.Tensor, size: tuple[int, int]) -> list[_Entry]:
    """The affine map of each class's geometric operation, six entries by rows, from coordinates in the result to the source.

    Coordinates run from -1 to 1, x before y, as in ``torch.nn.functional.affine_grid``.
    """
    found: list[_Entry] = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    for index, name in enumerate(settings.operations):
        if name in _MAPS:
            drew = choice == index
            entries = zip(_MAPS[name](settings, uniforms, size), found, strict=True)
            found = [torch.where(drew, _column(new, uniforms), _column(old, uniforms)) for new, old in entries]
    return found


def _column(entry: _Entry, like: torch.Tensor) -> torch.Tensor:
    """(K,) of the type of ``like`` (K, n)."""
    return entry if isinstance(entry, torch.Tensor) else like.new_full((len(like),), entry)


def _crop(settings: Augmentation, uniforms: torch.Tensor, size: tuple[int, int]) -> _Entries:
    """Shift by whole pixels, up to the padding either way, with zeros moving in."""
    shifts = []
    for axis, side in enumerate(size):
        pad = int(side * settings.crop_pad + 0.5)
        shifts.append(((uniforms[:, axis] * (2 * pad + 1)).long() - pad).to(uniforms.dtype) * (2 / side))
    return 1.0, 0.0, shifts[1], 0.0, 1.0, shifts[0]


def _flip(settings: Augmentation, uniforms: torch.Tensor, size: tuple[int, int]) -> _Entries:
    """Flip left and right, or do nothing."""
    return 1.0 - 2.0 * (uniforms[:, 0] < settings.flip).to(uniforms.dtype), 0.0, 0.0, 0.0, 1.0, 0.0


def _scale(settings: Augmentation, uniforms: torch.Tensor, size: tuple[int, int]) -> _Entries:
    """Scale each axis by its own factor."""
    low = 1.0 / settings.scale
    x, y = (low + uniforms[:, axis] * (settings.scale - low) for axis in range(2))
    return x, 0.0, 0.0, 0.0, y, 0.0


def _rotate(settings: Augmentation, uniforms: torch.Tensor, size: tuple[int, int]) -> _Entries:
    """Rotate about the centre."""
    angle = (uniforms[:, 0] - 0.5) * 2 * settings.rotate * math.pi / 180
    return angle.cos(), -angle.sin(), 0.0, angle.sin(), angle.cos(), 0.0


_MAPS: dict[str, Callable[[Augmentation, torch.Tensor, tuple[int, int]], _Entries]] = {
    "crop": _crop,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}
_KINDS = {**dict.fromkeys(_MAPS, _MOVE), "color": _COLOR, "cutout": _CUTOUT}


def _per_class(values: torch.Tensor) -> torch.Tensor:
    return values.view(-1, 1, 1, 1, 1)

"""Siamese augmentation with static shapes: what a captured step needs, with the parameters on the images' own device.

:meth:`~atom_plugin.augmentation.Draw.apply` looks at which operation each class drew and works on groups of classes, so the
host must know the draw and every step has other shapes. Here every class goes through the same few operations, whatever it
drew: crop, flip, scale and rotate are one affine map per class, which is the identity for the others; colour and cutout are
computed for all classes and kept where they were drawn. The results are those of ``Draw.apply`` within rounding.

The gradient of ``grid_sample`` adds into the source image in any order on a GPU, so that two runs differ in their last bits.
Here it is gathered: a source pixel sums over the few places that its bilinear footprint reaches, in one fixed order.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from atom_plugin.augmentation import Augmentation, color, crop_shifts, cutout, rotate_maps, scale_maps

_GEOMETRIC = ("crop", "flip", "scale", "rotate")


def augment(settings: Augmentation, images: torch.Tensor, choice: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Augment (K, n, C, H, W), differentiably, as ``Draw(settings, choice, uniforms).apply`` does.

    ``choice`` is int64 (K,), ``uniforms`` (K, 4) of the images' type, both on their device; nothing waits for them.
    """
    drawn: dict[str, torch.Tensor] = {}
    for index, name in enumerate(settings.operations):
        chosen = choice == index
        drawn[name] = drawn[name] | chosen if name in drawn else chosen
    if any(name in drawn for name in _GEOMETRIC):
        maps = _affine_maps(settings, drawn, uniforms, images.shape[-2], images.shape[-1])
        images = _Resample.apply(images, maps, _reach(settings, images.shape[-2] / images.shape[-1]))
    for name, function in (("color", color), ("cutout", cutout)):
        if name in drawn:
            images = torch.where(drawn[name].view(-1, 1, 1, 1, 1), function(settings, images, uniforms), images)
    return images


def _affine_maps(
    settings: Augmentation, drawn: dict[str, torch.Tensor], uniforms: torch.Tensor, height: int, width: int
) -> torch.Tensor:
    """(K, 2, 3), from places in the result to places in the source, both in -1 … 1, x before y."""
    plain = torch.eye(2, 3, dtype=uniforms.dtype, device=uniforms.device).expand(len(uniforms), 2, 3)
    maps = plain
    if "crop" in drawn:
        x, y = (
            crop_shifts(settings, uniforms[:, axis], side).to(uniforms.dtype) * (2 / side)
            for axis, side in ((1, width), (0, height))
        )
        shift = torch.stack([x, y], dim=1)
        maps = torch.where(drawn["crop"].view(-1, 1, 1), torch.cat([plain[:, :, :2], shift.unsqueeze(2)], dim=2), maps)
    if "flip" in drawn:
        mirror = torch.ones_like(plain)
        mirror[:, 0, 0] = -1
        maps = torch.where((drawn["flip"] & (uniforms[:, 0] < settings.flip)).view(-1, 1, 1), plain * mirror, maps)
    for name, maps_of in (("scale", scale_maps), ("rotate", rotate_maps)):
        if name in drawn:
            maps = torch.where(drawn[name].view(-1, 1, 1), maps_of(settings, uniforms), maps)
    return maps


def _reach(settings: Augmentation, aspect: float) -> int:
    """How many pixels a source pixel's footprint reaches in the result, rounded up: the row sums of the inverse maps."""
    half = 1.0
    if "scale" in settings.operations:
        half = max(half, settings.scale, 1 / settings.scale)
    if "rotate" in settings.operations:
        angle = math.radians(settings.rotate)
        half = max(half, math.cos(angle) + math.sin(angle) * max(aspect, 1 / aspect))
    return math.ceil(half)


class _Resample(torch.autograd.Function):
    """Bilinear resampling of (K, n, C, H, W) by one affine map per class, with zeros outside."""

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, maps: torch.Tensor, reach: int) -> torch.Tensor:
        ctx.save_for_backward(maps)
        ctx.reach = reach
        groups, count, _, height, width = images.shape
        x, y = _centres(width, maps), _centres(height, maps)
        grid = torch.stack(_mapped(maps, x.view(1, 1, -1), y.view(1, -1, 1)), dim=3)
        # One grid per image, not one image of n * C channels: a GPU's kernel walks over channels in turn.
        grid = grid.unsqueeze(1).expand(groups, count, height, width, 2).flatten(0, 1)
        return F.grid_sample(images.flatten(0, 1), grid, align_corners=False).view_as(images)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (maps,) = ctx.saved_tensors
        groups, count, channels, height, width = gradient.shape
        indices, weights = _footprints(maps, ctx.reach, height, width)
        rows = gradient.reshape(groups, count * channels, height * width)
        result = torch.zeros_like(rows)
        for index, weight in zip(indices, weights, strict=True):
            result.addcmul_(rows.gather(2, index.unsqueeze(1).expand_as(rows)), weight.unsqueeze(1))
        return result.view_as(gradient), None, None


def _footprints(maps: torch.Tensor, reach: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """For each source pixel, flat places of the result that may show it and with what weight: (places, K, H * W)."""
    near = torch.arange(1 - reach, reach + 1, device=maps.device)
    down, right = (offsets.flatten().view(-1, 1, 1, 1) for offsets in torch.meshgrid(near, near, indexing="ij"))
    (a, b, e), (c, d, f) = (row.unbind(1) for row in maps.unbind(1))
    determinant = a * d - b * c
    back = torch.stack([d, -b, b * f - d * e, -c, a, c * e - a * f], dim=1) / determinant.unsqueeze(1)
    source_x = torch.arange(width, device=maps.device).view(1, 1, -1)
    source_y = torch.arange(height, device=maps.device).view(1, -1, 1)
    x, y = _mapped(back.view(-1, 2, 3), _centres(width, maps).view(1, 1, -1), _centres(height, maps).view(1, -1, 1))
    column = _pixels(x, width).floor().long() + right
    row = _pixels(y, height).floor().long() + down
    seen_x, seen_y = _mapped(maps, _centre(column, width, maps), _centre(row, height, maps))
    weight = (1 - (_pixels(seen_x, width) - source_x).abs()).clamp(min=0)
    weight = weight * (1 - (_pixels(seen_y, height) - source_y).abs()).clamp(min=0)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    return place.flatten(2), torch.where(inside, weight, 0.0).to(maps.dtype).flatten(2)


def _centres(side: int, like: torch.Tensor) -> torch.Tensor:
    """The centres of ``side`` pixels on the scale from -1 to 1."""
    return _centre(torch.arange(side, device=like.device), side, like)


def _centre(pixel: torch.Tensor, side: int, like: torch.Tensor) -> torch.Tensor:
    return (2 * pixel.to(like.dtype) + 1) / side - 1


def _pixels(place: torch.Tensor, side: int) -> torch.Tensor:
    """The inverse of :func:`_centres`: fractional pixels."""
    return ((place + 1) * side - 1) / 2


def _mapped(maps: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both coordinates under each class's map. Written out: a matrix product might run in a GPU's short formats."""
    (a, b, e), (c, d, f) = ([item.view(-1, 1, 1) for item in row.unbind(1)] for row in maps.unbind(1))
    return a * x + b * y + e, c * x + d * y + f

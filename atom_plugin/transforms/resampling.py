"""Bilinear resampling by affine maps with a deterministic gradient, also on a GPU.

The gradient of ``grid_sample`` adds into the source image in any order on a GPU, so that two runs differ in their last bits.
Here it is gathered: a source pixel sums over the few result pixels in its bilinear footprint, in one fixed order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def resample(images: torch.Tensor, maps: torch.Tensor, reach: int) -> torch.Tensor:
    """Images (K, n, C, H, W), each class under its map, (K, 2, 3) as ``affine_grid`` takes them, with zeros outside.

    ``reach`` is the largest number of result pixels by which a source pixel's footprint extends to either side.
    """
    if images.device.type == "cuda":
        return resample_gathering(images, maps, reach)
    groups, _, _, height, width = images.shape
    stacked = images.reshape(groups, -1, height, width)  # a class's images ride through as channels of one
    return F.grid_sample(stacked, _grid(maps, height, width), align_corners=False).view_as(images)


def resample_gathering(images: torch.Tensor, maps: torch.Tensor, reach: int) -> torch.Tensor:
    """:func:`resample` with the gathered gradient, whatever the device."""
    result: torch.Tensor = _Resample.apply(images, maps, reach)
    return result


class _Resample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, maps: torch.Tensor, reach: int) -> torch.Tensor:
        ctx.save_for_backward(maps)
        ctx.reach = reach
        groups, count, _, height, width = images.shape
        # One grid per image, not one image of n * C channels: a GPU's kernel walks over channels in turn.
        grid = _grid(maps, height, width).unsqueeze(1).expand(groups, count, height, width, 2).flatten(0, 1)
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


def _grid(maps: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The source coordinates of each result pixel, (K, H, W, 2) as ``grid_sample`` takes them."""
    x, y = _centres(width, maps).view(1, 1, -1), _centres(height, maps).view(1, -1, 1)
    return torch.stack(_mapped(maps, x, y), dim=3)


def _footprints(maps: torch.Tensor, reach: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """For each source pixel, flat indices of the result pixels that may show it, and their weights: (places, K, H * W)."""
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
    """Both coordinates under each class's map. Written out, because a matrix product may run in a GPU's short formats."""
    (a, b, e), (c, d, f) = ([item.view(-1, 1, 1) for item in row.unbind(1)] for row in maps.unbind(1))
    return a * x + b * y + e, c * x + d * y + f

"""Packing: one stored image has factor x factor tiles, each a separate image at a fraction of the resolution.

Known as multi-formation (Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", 2022): with the
bytes of one image a network sees factor^2. A tile is enlarged bilinearly, pixel centres aligned as in
``interpolate(mode="bilinear", align_corners=False)``, before preprocessing and augmentation. Along each side that is a product
with a small fixed matrix, so that its gradient adds in one order on every device, unlike that of ``interpolate`` on a GPU.
"""

from __future__ import annotations

import functools

import torch
from torch.nn import functional as F

from atom_plugin.errors import ConfigError
from atom_plugin.runtime.memory import machine_memory
from atom_plugin.transforms.preprocessing import Preprocessing

WHITENED_TILES = (
    "found ZCA whitening together with a factor of {factor}: reducing and enlarging a whitened image loses 70 % of "
    "it, and 15 points of accuracy; switch ZCA off, or leave the factor at 1"
)


def check_factor(factor: int, image_shape: tuple[int, int, int]) -> None:
    """Raise ConfigError unless ``factor``, 1 or more, divides both sides of images (C, H, W)."""
    _, height, width = image_shape
    if factor < 1 or height % factor or width % factor:
        sides = sorted({side for side in range(2, min(height, width)) if height % side == width % side == 0})
        raise ConfigError(
            f"found a factor of {factor} for images of {height}x{width}, expected one that divides both sides: "
            f"{', '.join(map(str, [1, *sides]))}"
        )


def check_packing(factor: int, preprocessing: Preprocessing) -> None:
    """Raise ConfigError as :func:`check_factor`, and for tiles that are whitened: enlarging loses most of them.

    Halving and doubling the sides of a whitened image keeps 27 to 29 % of its energy, of a standardised one 85 %.
    """
    check_factor(factor, preprocessing.image_shape)
    if factor > 1 and preprocessing.whitening is not None:
        raise ConfigError(WHITENED_TILES.format(factor=factor))


def unpack(images: torch.Tensor, factor: int) -> torch.Tensor:
    """Images (N, C, H, W), float, to their enlarged tiles: (N * factor^2, C, H, W), the tiles of an image in sequence.

    Within an image they come row by row. Differentiable. Raises ConfigError as :func:`check_factor`, and if the result exceeds
    this machine's memory: a small file may ask for millions of tiles.
    """
    if factor == 1:
        return images
    needed = images.numel() * factor**2 * images.element_size()
    if needed > machine_memory():
        raise ConfigError(
            f"{len(images)} images of factor {factor} unpack to {needed / 1e9:.0f} GB, more than this machine's memory; take "
            "fewer"
        )
    tiles = _tiles(images, factor)
    down, right = (_enlargement(side, factor, images.dtype, images.device) for side in tiles.shape[-2:])
    enlarged: torch.Tensor = down @ tiles @ right.T
    return enlarged


def pack(images: torch.Tensor, factor: int) -> torch.Tensor:
    """The inverse: (N * factor^2, C, H, W), float, to (N, C, H, W), each image reduced by area averaging."""
    if factor == 1:
        return images
    check_factor(factor, _shape(images))
    small = F.avg_pool2d(images, factor).unflatten(0, (-1, factor, factor))
    packed: torch.Tensor = small.permute(0, 3, 1, 4, 2, 5).flatten(2, 3).flatten(3, 4)
    return packed.contiguous()


def decode(images: torch.Tensor, preprocessing: Preprocessing, factor: int) -> torch.Tensor:
    """The images that networks see for stored images (N, C, H, W): float32 (N * factor^2, C, H, W), preprocessed.

    uint8 images are pixels and are preprocessed here; float images were preprocessed before they were stored.
    """
    if images.dtype == torch.uint8:
        return preprocessing.forward(unpack(images.float() / 255, factor) if factor > 1 else images)
    return unpack(images.float(), factor)


def _tiles(images: torch.Tensor, factor: int) -> torch.Tensor:
    """(N, C, H, W) to (N * factor^2, C, H / factor, W / factor)."""
    check_factor(factor, _shape(images))
    count, channels, height, width = images.shape
    parts = images.view(count, channels, factor, height // factor, factor, width // factor)
    return parts.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def _shape(images: torch.Tensor) -> tuple[int, int, int]:
    channels, height, width = images.shape[1:]
    return channels, height, width


@functools.lru_cache(maxsize=16)
def _enlargement(side: int, factor: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The matrix (side * factor, side) that enlarges a column of ``side`` pixels."""
    unit = torch.eye(side, dtype=torch.float64).unsqueeze(1)
    columns = F.interpolate(unit, size=side * factor, mode="linear", align_corners=False).squeeze(1)
    return columns.T.to(device, dtype)

"""Check whether pixels look plausible in the coding they were read with, since files do not name their coding."""

from __future__ import annotations

import torch

from atom_plugin.store.formats.coding import convert, standardised
from atom_plugin.transforms.preprocessing import Preprocessing

_LOOKED_AT, _SMALLEST = 256, 16
_FAR_OUTSIDE, _SHARE = 0.5, 0.2
_NARROW, _UNCORRELATED = 0.35, 0.2


def odd_coding(images: torch.Tensor, coding: Preprocessing | None) -> str | None:
    """An objection to reading ``images`` (N, C, H, W) as ``coding``, and what to try; None if there is none.

    Looks at the range of the true colours, and at the correlation of neighbouring pixels: it is high in photographs and in
    images distilled from them, and near zero in whitened images and noise. Small images have too few pixels for a judgement.
    """
    if coding is not None and coding.whitening is not None:
        return None
    if len(images) < 2 or min(images.shape[2:]) < _SMALLEST:
        return None
    shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    neutral = standardised(((0.0,) * shape[0], (1.0,) * shape[0]), shape)
    colours = convert(images[:: len(images) // _LOOKED_AT + 1], coding, neutral)
    outside = float(((colours < -_FAR_OUTSIDE) | (colours > 1 + _FAR_OUTSIDE)).double().mean())
    if outside > _SHARE:
        return (
            f"{outside:.0%} of the pixels are far outside [0, 1] as they were read: they may be standardised with "
            "other constants (--mean, --std), or whitened (--option zca=true)"
        )
    agreement = _agreement(colours)
    if agreement < _UNCORRELATED:
        return (
            f"neighbouring pixels are hardly correlated (correlation {agreement:.2f}): the images are noise, or "
            "whitened and then need --option zca=true"
        )
    low, high = colours.flatten().sort().values[[colours.numel() // 100, -colours.numel() // 100]].tolist()
    if high - low < _NARROW:
        return (
            f"nearly all pixels are between {low:.2f} and {high:.2f} as they were read: they may be true colours "
            "already, which the formats idc and arrays read"
        )
    return None


def _agreement(images: torch.Tensor) -> float:
    """Mean correlation of horizontal and vertical neighbours, each channel of each image about its own mean."""
    centred = images.double() - images.double().mean((2, 3), keepdim=True)
    power = centred.square().mean((2, 3)).clamp_min(1e-12)
    right = (centred[..., 1:] * centred[..., :-1]).mean((2, 3)) / power
    below = (centred[..., 1:, :] * centred[..., :-1, :]).mean((2, 3)) / power
    return float((right + below).mean() / 2)

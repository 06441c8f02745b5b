"""Siamese augmentation with static shapes: what a captured step needs, with the parameters on the images' own device.

:meth:`~atom_plugin.transforms.augmentation.Draw.apply` looks at which operation each class drew and works on groups of
classes, so the host must know the draw and every step has other shapes. Here every class goes through the same few
operations, whatever it drew: crop, flip, scale and rotate are one affine map per class, which is the identity for the others;
colour and cutout are computed for all classes and kept where they were drawn. The results are those of ``Draw.apply`` within
rounding.
"""

from __future__ import annotations

import torch

from atom_plugin.transforms.augmentation import Augmentation, color, crop_shifts, cutout, reach, rotate_maps, scale_maps
from atom_plugin.transforms.resampling import resample

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
        images = resample(images, maps, reach(settings, images.shape[-2] / images.shape[-1]))
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

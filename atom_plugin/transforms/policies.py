"""torchvision's augmentation policies for 8-bit images: RandAugment and AutoAugment.

They are not defined on preprocessed images: a whitened one has no contrast to stretch and no bits to drop. So these policies
see pixels, and preprocessing follows. Distilled pixels outside [0, 1] are clamped first.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from atom_plugin.errors import ConfigError
from atom_plugin.runtime.randomness import global_draws_from

POLICIES = ("randaugment", "autoaugment")

Policy = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


def pixel_policy(name: str, channels: int) -> Policy:
    """A function of uint8 images (N, C, H, W) and a generator that augments each image separately, on its device.

    "randaugment" is Cubuk et al. (2020) with torchvision's two operations of magnitude 9 of 31; "autoaugment" is the policy
    that Cubuk et al. (2019) found for CIFAR-10. Raises ConfigError for images without 1 or 3 channels.
    """
    from torchvision.transforms import v2

    if channels not in (1, 3):
        raise ConfigError(
            f"{name} works on images of 1 or 3 channels, not {channels}; choose siamese operations or none"
        )
    transform = v2.RandAugment() if name == "randaugment" else v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)

    def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        with global_draws_from(generator):
            # torchvision draws one operation per call, for all images handed over; hence one call per image.
            return torch.stack([transform(image) for image in images])

    return augment

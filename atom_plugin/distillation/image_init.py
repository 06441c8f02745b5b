"""What synthetic images start from: real images, chosen as a selection chooses them, or noise."""

from __future__ import annotations

import torch

from atom_plugin.datasets import SourceData
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.selected_set import chosen_pixels
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.transforms.packing import pack
from atom_plugin.transforms.preprocessing import Preprocessing


def initial_images(
    config: DistillConfig, data: SourceData, preprocessing: Preprocessing, *, device: torch.device
) -> torch.Tensor:
    """Float32 (K * ipc, C, H, W), class-major, on the CPU: preprocessed, or in [0, 1] for images to be stored as uint8.

    A packed image starts from factor^2 different real ones. ``config.precision`` must be resolved. Raises as
    :func:`~atom_plugin.distillation.selected_set.chosen_pixels`.
    """
    pixels = config.storage == "uint8"
    if config.image_init == "noise":
        generator = generator_for(config.seed, "initialise")
        noise = torch.randn(len(data.class_names) * config.ipc, *data.image_shape, generator=generator)
        return preprocessing.inverse(noise).clamp(0, 1) if pixels else noise
    chosen = chosen_pixels(config, data, preprocessing, device=device)
    return pack(chosen.float() / 255 if pixels else preprocessing.forward(chosen), config.factor)

"""What synthetic images start from: real images, chosen as a selection chooses them, or noise."""

from __future__ import annotations

import torch

from atom_plugin.datasets import SourceData
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.selected_set import chosen_images
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.transforms.preprocessing import Preprocessing


def initial_images(
    config: DistillConfig, data: SourceData, preprocessing: Preprocessing, *, device: torch.device
) -> torch.Tensor:
    """Float32 (K * ipc, C, H, W), class-major, preprocessed, on the CPU; ``config.precision`` must be resolved.

    Raises as :func:`~atom_plugin.distillation.selected_set.chosen_images`.
    """
    if config.image_init == "noise":
        generator = generator_for(config.seed, "initialise")
        return torch.randn(len(data.class_names) * config.ipc, *data.image_shape, generator=generator)
    return chosen_images(config, data, preprocessing, device=device)

"""Initial synthetic images: selected real images, noise, or another set's images."""

from __future__ import annotations

from pathlib import Path

import torch

from atom_plugin import store
from atom_plugin.datasets import SourceData
from atom_plugin.distillation.config import FROM_SET, DistillConfig
from atom_plugin.distillation.selected_set import chosen_pixels
from atom_plugin.errors import ConfigError, shape_text
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.transforms.packing import pack
from atom_plugin.transforms.preprocessing import Preprocessing


def initial_images(
    config: DistillConfig, data: SourceData, preprocessing: Preprocessing, *, device: torch.device
) -> torch.Tensor:
    """Float32 (K * ipc, C, H, W), class-major, on the CPU: preprocessed, or in [0, 1] for images to be stored as uint8.

    A packed image starts from factor^2 different real images. ``config.precision`` must be resolved. Raises as
    :func:`~atom_plugin.distillation.selected_set.chosen_pixels` and :func:`images_of_set`.
    """
    pixels = config.storage == "uint8"
    if config.image_init == "noise":
        generator = generator_for(config.seed, "initialise")
        noise = torch.randn(len(data.class_names) * config.ipc, *data.image_shape, generator=generator)
        return preprocessing.inverse(noise).clamp(0, 1) if pixels else noise
    if config.image_init.startswith(FROM_SET):
        true_colour = images_of_set(Path(config.image_init.removeprefix(FROM_SET)), config, data)
        return true_colour.clamp(0, 1) if pixels else preprocessing.forward(true_colour)
    chosen = chosen_pixels(config, data, preprocessing, device=device)
    return pack(chosen.float() / 255 if pixels else preprocessing.forward(chosen), config.factor)


def images_of_set(path: Path, config: DistillConfig, data: SourceData) -> torch.Tensor:
    """The first images of each class of ``data`` in the set at ``path``, as many as ``config`` has, in its packing.

    Float32 (K * ipc, C, H, W) on the [0, 1] scale, class-major, not clamped. Classes are identified by name. Raises StoreError
    for a file that cannot be read, ConfigError for images of another size, and for a class with too few images or none.
    """
    held = store.read(path)
    if held.preprocessing.image_shape != data.image_shape:
        raise ConfigError(
            f"{path}: has images of {shape_text(held.preprocessing.image_shape)}, expected the source's "
            f"{shape_text(data.image_shape)}; start from another set"
        )
    packed = held.factor == config.factor
    need = config.ipc if packed else config.ipc * config.tiles
    images, labels = (held.as_stored(), held.labels) if packed else (held.true_colour(), held.decoded().labels)
    chosen = []
    for name in data.class_names:
        rows = (labels == held.class_names.index(name)).nonzero().flatten() if name in held.class_names else labels[:0]
        if len(rows) < need:
            raise ConfigError(
                f"{path}: has {len(rows)} images of the class {name!r}, expected at least {need}; lower --ipc, or "
                "start from another set"
            )
        chosen.append(rows[:need])
    picked = images[torch.cat(chosen)]
    return picked if packed else pack(picked, config.factor)

"""Small things that several tests need: a source of a few coloured images, and a run on it that takes a second."""

from pathlib import Path
from typing import Any

import torch

from atom_plugin.datasets import SourceData, Split
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.select_config import SelectConfig
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.models.network_pool import NetworkPool, flat_weights

# How far bfloat16 may move a run of small_config from float32's, or from one that adds up in another order. Its numbers have 8
# bits, so that rounding one moves it by up to 2**-8 = 0.4 %. That moved losses by up to 1.3 % and images by up to 7 % of the
# way they went (11 % under dc, whose gradients nearly cancel): 3 steps, 21 pairs of matcher and normalisation, 6 seeds each,
# on convolutions in bfloat16, and emulated for AVX2 and for no vectors at all. The bounds leave room for other processors.
BFLOAT16_LOSS = 0.05  # relative
BFLOAT16_WAY = 0.2  # relative to the way from the start, as norms


def coloured_source(
    classes: int = 3, per_class: int = 12, size: int = 8, seed: int = 0, channels: int = 3
) -> SourceData:
    """Noisy images whose brightest quarter names their class: easy to learn, not trivial."""
    generator = torch.Generator().manual_seed(seed)

    def split(count: int) -> Split:
        labels = torch.arange(classes).repeat_interleave(count)
        images = torch.randint(0, 120, (len(labels), channels, size, size), generator=generator)
        half = size // 2
        for k in range(classes):
            top, left = (k // 2 % 2) * half, (k % 2) * half
            images[labels == k, k % channels, top : top + half, left : left + half] += 130
        return Split(images=images.to(torch.uint8), labels=labels)

    return SourceData(
        name="coloured",
        train=split(per_class),
        test=split(6),
        class_names=tuple(f"class {k}" for k in range(classes)),
        fingerprint="0123456789abcdef",
        options={},
    )


def small_config(**overrides: Any) -> DistillConfig:
    settings: dict[str, Any] = {
        "precision": "float32",
        "ipc": 2,
        "iterations": 6,
        "real_batch": 5,
        "image_lr": 0.1,
        "image_schedule": "constant",
    }
    network = {"width": 8, "depth": 2, **overrides.pop("network", {})}
    return DistillConfig.from_recipe("atom", image_shape=(3, 8, 8), network=network, **{**settings, **overrides})


def small_selection(**overrides: Any) -> SelectConfig:
    network = {"width": 8, "depth": 2, **overrides.pop("network", {})}
    settings = {"precision": "float32", "ipc": 2, **overrides}
    return SelectConfig.from_recipe("atom", image_shape=(3, 8, 8), network=network, **settings)


def save_untrained_pool(path: Path, shape: tuple[int, int, int], classes: int = 10) -> str:
    """A pool at ``path`` of one network of the default width, which has not moved at three ages; the path as text."""
    network = ConvNetConfig(normalisation="instance")
    weights = flat_weights(network.build(shape, classes, generator=torch.Generator().manual_seed(0)))
    NetworkPool(
        network=network,
        image_shape=shape,
        classes=classes,
        epochs=(0, 1, 2),
        weights=weights.expand(1, 3, -1).clone(),
        accuracies=(0.1,),
        fingerprint="0123456789abcdef",
        preprocessing="standardised",
        made={},
    ).save(path)
    return str(path)

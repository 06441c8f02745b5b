"""Change the stems of networks to reduce small images less: smaller patches, or half the first stride and no pooling after it.

ImageNet's networks shrink their 224x224 images 32 times; a 32x32 image would become one position. The common remedy for CIFAR
(He et al., 2016, section 4.2) is a 3x3 stride-1 first convolution and no max-pooling.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn


def first_convolution(network: nn.Module) -> nn.Conv2d | None:
    """The convolution that timm names as the first; None if the network has none or several."""
    name = _first_name(network)
    if name is None:
        return None
    try:
        module = network.get_submodule(name)
    except AttributeError:
        return None
    return module if isinstance(module, nn.Conv2d) else None


def is_patch_embedding(convolution: nn.Conv2d) -> bool:
    """Whether it cuts the image into patches that do not overlap."""
    return convolution.kernel_size == convolution.stride and convolution.stride[0] > 1


def cut_patches(network: nn.Module, patch: int, size: tuple[int, int]) -> None:
    """Make the first convolution cut images of ``size`` (H, W) into patches of ``patch`` pixels, in place.

    Also updates timm's patch embeddings; the number of patches must then be the number that the network was built for.
    """
    convolution, name = first_convolution(network), _first_name(network)
    assert convolution is not None and name is not None
    if convolution.stride == (patch, patch):
        return
    _crop(convolution, patch)
    convolution.stride = (patch, patch)
    embedding: Any = network.get_submodule(name.rpartition(".")[0])
    if hasattr(embedding, "set_input_size"):
        embedding.patch_size = (patch, patch)
        embedding.set_input_size(img_size=size)


def soften_stem(network: nn.Module) -> None:
    """Halve the stride of a first convolution whose windows overlap, in place; remove a pooling that follows in the stem.

    Stride 2 becomes 1, and a kernel larger than 3x3 then becomes its central 3x3, as in CIFAR's ResNets; stride 4 becomes 2. A
    first convolution of stride 1 and the layers after it stay unchanged.
    """
    convolution = _strided_first(network)
    if convolution is None:
        return
    pooling = _stem_pooling(network)
    convolution.stride = (convolution.stride[0] // 2, convolution.stride[1] // 2)
    # Without padding of its own something else pads, for the kernel that it knows.
    if convolution.stride == (1, 1) and convolution.kernel_size > (3, 3) and convolution.padding != (0, 0):
        _crop(convolution, 3)
        convolution.padding = (1, 1)
    if pooling is not None:
        network.set_submodule(pooling, nn.Identity())


def stem_gain(network: nn.Module) -> int:
    """How many times larger, by side, :func:`soften_stem` makes the maps."""
    if _strided_first(network) is None:
        return 1
    pooling = _stem_pooling(network)
    return 2 if pooling is None else 2 * _stride(network.get_submodule(pooling))


def _strided_first(network: nn.Module) -> nn.Conv2d | None:
    convolution = first_convolution(network)
    return convolution if convolution is not None and convolution.stride[0] > 1 else None


def _first_name(network: nn.Module) -> str | None:
    config: Any = getattr(network, "default_cfg", None) or {}
    name = config.get("first_conv")
    return name if isinstance(name, str) else None


@torch.no_grad()
def _crop(convolution: nn.Conv2d, side: int) -> None:
    """Keep the central ``side`` x ``side`` of the kernel, scaled to keep the variance of its output."""
    height, width = convolution.kernel_size
    top, left = (height - side) // 2, (width - side) // 2
    middle = convolution.weight[:, :, top : top + side, left : left + side]
    convolution.weight = nn.Parameter(middle * math.sqrt(height * width) / side)
    convolution.kernel_size = (side, side)


def _stem_pooling(network: nn.Module) -> str | None:
    """The name of the first pooling before the next strided convolution, next to the first convolution or further out.

    Poolings inside blocks run parallel to other paths with the same stride, and are not part of the stem.
    """
    path = (_first_name(network) or "").split(".")
    for depth in range(len(path) - 1, -1, -1):
        parent = ".".join(path[:depth])
        names = [name for name, _ in network.get_submodule(parent).named_children()]
        for name in names[names.index(path[depth]) + 1 :]:
            child = network.get_submodule(f"{parent}.{name}" if parent else name)
            if any(_stride(module) > 1 for module in child.modules()):
                pools = not any(True for _ in child.parameters())
                return f"{parent}.{name}".lstrip(".") if pools else None
    return None


def _stride(module: nn.Module) -> int:
    stride: Any = getattr(module, "stride", 1)
    return int(max(stride)) if isinstance(stride, tuple) else int(stride) if isinstance(stride, int) else 1

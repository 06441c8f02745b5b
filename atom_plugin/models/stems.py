"""Stems of networks, made to reduce small images less: smaller patches; half the first stride, and no pooling after it.

ImageNet's networks shrink their 224x224 images 32 times; of 32x32 images one place would be left. The common remedy for
CIFAR (He et al., 2016, section 4.2) is a 3x3 stride-1 first convolution and no max-pooling.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn


def first_convolution(network: nn.Module) -> nn.Conv2d | None:
    """The convolution that timm names as the first; None where it is none, or where a network has none or several."""
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

    timm's patch embeddings are told, too; the number of patches must then be the one that the network was built for.
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
    """Halve the stride of a first convolution whose windows overlap, in place; take out a pooling that follows in the stem.

    Stride 2 becomes 1, and a kernel larger than 3x3 then becomes its middle 3x3, as in CIFAR's ResNets; stride 4 becomes 2.
    A first convolution of stride 1 stays as it is, and so does what follows it.
    """
    convolution, name = first_convolution(network), _first_name(network)
    if convolution is None or name is None or convolution.stride[0] < 2:
        return
    convolution.stride = (convolution.stride[0] // 2, convolution.stride[1] // 2)
    # Without padding of its own something else pads, for the kernel that it knows.
    if convolution.stride == (1, 1) and convolution.kernel_size > (3, 3) and convolution.padding != (0, 0):
        _crop(convolution, 3)
        convolution.padding = (1, 1)
    _drop_pooling(network, name)


def _first_name(network: nn.Module) -> str | None:
    config: Any = getattr(network, "default_cfg", None) or {}
    name = config.get("first_conv")
    return name if isinstance(name, str) else None


@torch.no_grad()
def _crop(convolution: nn.Conv2d, side: int) -> None:
    """Keep the middle ``side`` x ``side`` of the kernel, scaled so that the variance of what it gives stays."""
    height, width = convolution.kernel_size
    top, left = (height - side) // 2, (width - side) // 2
    middle = convolution.weight[:, :, top : top + side, left : left + side]
    convolution.weight = nn.Parameter(middle * math.sqrt(height * width) / side)
    convolution.kernel_size = (side, side)


def _drop_pooling(network: nn.Module, first: str) -> None:
    """Replace the first pooling by nothing that comes before another strided convolution, beside ``first`` or further out.

    Poolings inside of blocks run beside other paths of the same stride, and stay.
    """
    path = first.split(".")
    for depth in range(len(path) - 1, -1, -1):
        parent = network.get_submodule(".".join(path[:depth]))
        names = [name for name, _ in parent.named_children()]
        for name in names[names.index(path[depth]) + 1 :]:
            child = parent.get_submodule(name)
            strided = [module for module in child.modules() if _stride(module) > 1]
            if not strided:
                continue
            if not any(True for _ in child.parameters()):
                setattr(parent, name, nn.Identity())
            return


def _stride(module: nn.Module) -> int:
    stride: Any = getattr(module, "stride", 1)
    return int(max(stride)) if isinstance(stride, tuple) else int(stride) if isinstance(stride, int) else 1

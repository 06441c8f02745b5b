"""The ConvNet family of the distillation literature, and a forward pass that yields features per block.

A block is a 3x3 convolution, a normalisation, an activation and a pooling (Gidaris & Komodakis, 2018). Every network of
the family takes (N, C, H, W), gives logits (N, classes), and gives :class:`~atom_plugin.models.features.Features` the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from atom_plugin.errors import ConfigError
from atom_plugin.models.convnet_choices import ConvNetChoices
from atom_plugin.models.features import Features
from atom_plugin.runtime.memory import machine_memory
from atom_plugin.runtime.settings import config_class

_SMALL_MAP = 256  # places of a map up to which the written-out instance normalisation wins

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leakyrelu": lambda: nn.LeakyReLU(0.01, inplace=True),
    "sigmoid": nn.Sigmoid,
    "swish": nn.SiLU,
}


class InstanceNorm(nn.GroupNorm):
    """Instance normalisation, (N, C, H, W), with a scale and a shift per channel.

    torch's group normalisation takes four to eight times as long on small channels-last maps on a CPU (128 channels of 8x8: 37
    against 8 ms for 512 images); on large maps it is faster.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The normalised images, in their own memory format."""
        count, channels, height, width = images.shape
        small = height * width <= _SMALL_MAP and images.device.type == "cpu"
        if not (small and images.is_contiguous(memory_format=torch.channels_last)):
            return super().forward(images)
        rows = images.permute(0, 2, 3, 1).reshape(count, height * width, channels)
        centred = rows - rows.mean(1, keepdim=True)
        scale = (centred.square().mean(1, keepdim=True) + self.eps).rsqrt() * self.weight
        normal = torch.addcmul(self.bias, centred, scale)
        return normal.view(count, height, width, channels).permute(0, 3, 1, 2)


# The group of "group" is the literature's 4; "layer" and "instance" are group normalisation with 1 and C groups, each
# with one scale and shift per channel (the literature's layer normalisation has one per pixel).
NORMALISATIONS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda channels: nn.Identity(),
    "batch": nn.BatchNorm2d,
    "layer": lambda channels: nn.GroupNorm(1, channels),
    "instance": InstanceNorm,
    "group": lambda channels: nn.GroupNorm(4, channels),
}


def default_depth(image_size: int) -> int:
    """Blocks for images of this side in pixels: 32 gives 3, 64 gives 4, 128 gives 5; at least 2."""
    return max(2, round(math.log2(image_size)) - 2)


@config_class
@dataclass(frozen=True, kw_only=True)
class ConvNetConfig(ConvNetChoices):
    """One member of the family. Raises ConfigError for choices that are impossible."""

    def build(
        self, image_shape: tuple[int, int, int], classes: int, *, generator: torch.Generator | None = None
    ) -> ConvNet:
        """A network for images (C, H, W), its weights drawn from ``generator``; without one, by torch's default.

        Raises ConfigError if the depth pools the image away.
        """
        if generator is None:
            return ConvNet(self, image_shape, classes)
        with torch.random.fork_rng(devices=[]):  # torch's layers draw from the global state as they are made
            network = ConvNet(self, image_shape, classes)
        network.reset(generator)
        return network


class ConvBlock(nn.Module):
    """Convolution, normalisation, activation, pooling."""

    def __init__(self, config: ConvNetConfig, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, config.width, 3, padding=1)
        self.normalisation = NORMALISATIONS[config.normalisation](config.width)
        self.activation = ACTIVATIONS[config.activation]()
        self.pooling = config.pooling
        self.pool_size = config.pool_size

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The feature map before pooling, which matchers see, and after it, which the next block sees."""
        feature_map = self.activation(self.normalisation(self.convolution(images)))
        return feature_map, self.pool(feature_map)

    def pool(self, feature_map: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C, H // 2, W // 2), or itself without pooling."""
        padding = self.pool_size // 3  # 3x3 needs a border to halve the side as 2x2 does
        if self.pooling == "avg":
            return F.avg_pool2d(feature_map, self.pool_size, stride=2, padding=padding, count_include_pad=False)
        if self.pooling == "max":
            return F.max_pool2d(feature_map, self.pool_size, stride=2, padding=padding)
        return feature_map


class ConvNet(nn.Module):
    """``depth`` blocks and a linear classifier on the flattened last map."""

    def __init__(self, config: ConvNetConfig, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        depth = config.depth or default_depth(min(height, width))
        self.config = config
        if config.pooling != "none":
            height, width = _pooled(height, depth, config), _pooled(width, depth, config)
        if min(height, width) < 1:
            raise ConfigError(
                f"{depth} pooling blocks leave nothing of {image_shape[1]}x{image_shape[2]} images; lower the depth"
            )
        _refuse_oversized(config, channels, depth, classes * height * width)
        self.blocks = nn.ModuleList(ConvBlock(config, config.width if i else channels) for i in range(depth))
        self.classifier = nn.Linear(config.width * height * width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes)."""
        # Not by way of `features`, which compares numbers of images: what exports the network would fix the batch size.
        for block in self.blocks:
            _, images = block(images)
        logits: torch.Tensor = self.classifier(images.flatten(1))
        return logits

    def features(self, images: torch.Tensor, *, groups: int = 1) -> Features:
        """Maps of every block before its pooling, and the flattened last map after it.

        ``groups`` is the number of classes in the class-major batch ``images`` (N, C, H, W).
        """
        maps: list[torch.Tensor] = []
        for block in self.blocks:
            feature_map, images = block(images)
            maps.append(feature_map)
        return Features(maps=tuple(maps), embedding=images.flatten(1), groups=groups)

    def conv_blocks(self) -> list[ConvBlock]:
        """The blocks, input side first, with their type, which a ModuleList does not have."""
        return [block for block in self.blocks if isinstance(block, ConvBlock)]

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw all parameters again, in place, from ``generator`` (on the CPU: the same draw on every device)."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                fan_in = module.weight[0].numel()
                weight = _drawable(module.weight)
                bias = torch.empty(fan_in) if module.bias is None else _drawable(module.bias)
                if self.config.weight_init == "normal":
                    weight.normal_(0.0, math.sqrt(2.0 / fan_in), generator=generator)
                    bias.zero_()
                else:
                    bound = 1.0 / math.sqrt(fan_in)
                    weight.uniform_(-bound, bound, generator=generator)
                    bias.uniform_(-bound, bound, generator=generator)
                if weight is not module.weight:
                    module.weight.copy_(weight)
                if module.bias is not None and bias is not module.bias:
                    module.bias.copy_(bias)
            elif isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
                module.reset_parameters()


def _drawable(parameter: torch.Tensor) -> torch.Tensor:
    """The tensor that a draw fills: ``parameter`` itself if its memory is in the order of the draws, else another."""
    at_once = parameter.device.type == "cpu" and parameter.is_contiguous() and parameter.dtype == torch.float32
    return parameter if at_once else torch.empty(parameter.shape)


def _refuse_oversized(config: ConvNetConfig, channels: int, depth: int, outputs: int) -> None:
    """Raise ConfigError if weights, gradients and momentum alone take more memory than this machine has.

    A set's file names its network, so its size is checked before it is made. ``outputs`` are the outputs of the classifier for
    each channel of the last map.
    """
    weights = config.width * (9 * (channels + (depth - 1) * config.width) + outputs)
    if weights * 12 > machine_memory():
        raise ConfigError(
            f"a ConvNet of width {config.width} and depth {depth} has {weights:,} weights, more than this machine's memory can "
            "train; lower the width or the depth"
        )


def _pooled(side: int, depth: int, config: ConvNetConfig) -> int:
    for _ in range(depth):
        side = side // 2 if config.pool_size == 2 else (side + 1) // 2
    return side

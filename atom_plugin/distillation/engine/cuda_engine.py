"""Class means of a matcher's descriptors on an accelerator: maps stay in the network's own precision and are reduced at once.

Autocast returns the results of group normalisation in float32, and a sum of powers written out widens the map that it sums.
Here both read the map in bfloat16, and compute in float32 inside their kernels, so that no float32 copy of a real map exists. A
map is reduced where it is made, and with per-image normalisation the real branch runs over a few classes at a time.

With ``fused`` the operations after a convolution are one pass of custom kernels, if they work here (:mod:`.fused_block`).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from atom_plugin.distillation.engine import fused_block
from atom_plugin.matchers import MeanMatcher, Statistics, class_means, powers_of
from atom_plugin.models.batchnorm import ties_images
from atom_plugin.models.convnet import ConvBlock, ConvNet
from atom_plugin.runtime.device import autocast, full_precision
from atom_plugin.runtime.kernels import usable

_ROUNDING = 0.3  # of their size, between results in bfloat16: their gradients differ by some 5 %; wrong ones by 100
_REAL_MAP_BYTES = 1 << 30  # of the first real map at a time, were it float32, where normalisation allows parts


class CudaEngine:
    """See :class:`~atom_plugin.distillation.engine.Engine`; equals the plain engine within rounding.

    ``map_bytes`` limits the first real map of a chunk, in float32. ``fused`` asks for kernels that may not be available: see
    :func:`fuses`.
    """

    def __init__(self, network: ConvNet, *, map_bytes: int = _REAL_MAP_BYTES, fused: bool = False) -> None:
        self.network = network
        self.features = network.features
        self._map_bytes = map_bytes
        self.fused = fused

    @torch.no_grad()
    def real(self, matcher: MeanMatcher, images: torch.Tensor, *, groups: int) -> Statistics:
        """Class means, a few classes at a time unless batch normalisation ties all images together."""
        if ties_images(self.network):
            return self.synthetic(matcher, images, groups=groups)
        per_class = images[0, 0].numel() * self.network.config.width * images.element_size() * (len(images) // groups)
        classes = max(1, self._map_bytes // per_class)
        parts = [
            self.synthetic(matcher, part.flatten(0, 1), groups=len(part))
            for part in images.unflatten(0, (groups, -1)).split(classes)
        ]
        return tuple(torch.cat(descriptors) for descriptors in zip(*parts, strict=True))

    def synthetic(self, matcher: MeanMatcher, images: torch.Tensor, *, groups: int) -> Statistics:
        """Class means; each map is reduced where it is made."""
        matched = matcher.matched_maps(len(self.network.blocks))
        images = images.contiguous(memory_format=torch.channels_last)
        described: list[torch.Tensor] = []
        for depth, block in enumerate(self.network.conv_blocks()):
            output = _convolved(block, images)
            powers = powers_of(matcher) if depth < matched else (None, None)
            if self.fused and powers is not None and fused_block.suits(block, powers):
                images, sums = fused_block.finished(block, output, powers)
                described += matcher.describe_sums(sums) if depth < matched else ()
                continue
            feature_map = block.activation(_normalised(block, output))
            if depth < matched:
                described += matcher.describe_map(feature_map)
            images = block.pool(feature_map)
        return class_means(matcher, described, matcher.describe_embedding(images.flatten(1)), groups)


def fuses(network: ConvNet, matcher: MeanMatcher, image_shape: tuple[int, int, int], precision: str) -> bool:
    """Whether ``CudaEngine(network, fused=True)`` runs here, and gives the unfused results; a log message if not.

    Tests two images (C, H, W) of each of two classes, so that every kernel is compiled after this. Call this before a step is
    recorded.
    """
    engines = (CudaEngine(network, fused=fused) for fused in (True, False))
    ours, theirs = (partial(_tried, engine, matcher, image_shape, precision) for engine in engines)
    device = next(network.parameters()).device
    return usable("blocks", ours, theirs, device=device, rounding=_ROUNDING)


def _tried(
    engine: CudaEngine, matcher: MeanMatcher, image_shape: tuple[int, int, int], precision: str
) -> list[torch.Tensor]:
    """Statistics of a few images of noise, and the gradient of their squares."""
    like = next(engine.network.parameters())
    images = torch.randn(4, *image_shape, generator=torch.Generator().manual_seed(0)).to(like)
    leaf = images.clone().requires_grad_()
    with autocast(like.device, precision):
        real = engine.real(matcher, images, groups=2)
        loss = torch.stack([item.square().sum() for item in engine.synthetic(matcher, leaf, groups=2)]).sum()
    return [*real, *torch.autograd.grad(loss, leaf)]


def _convolved(block: ConvBlock, images: torch.Tensor) -> torch.Tensor:
    """The convolution, without its bias if normalisation cancels it, since the bias costs another pass over the map."""
    layer = block.convolution
    if fused_block.per_channel(block):
        return F.conv2d(images, layer.weight, None, layer.stride, layer.padding)
    result: torch.Tensor = layer(images)
    return result


def _normalised(block: ConvBlock, output: torch.Tensor) -> torch.Tensor:
    """The block's normalisation of (N, C, H, W), in its type: autocast would return groups, and store them, in float32."""
    norm = block.normalisation
    if isinstance(norm, nn.BatchNorm2d):  # by the batch's own moments; nobody asks for running ones here
        return F.batch_norm(output, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
    if isinstance(norm, nn.GroupNorm):
        if torch.is_grad_enabled():
            normal: torch.Tensor = norm(output)
            return normal.to(output.dtype)
        with full_precision(output.device):
            return _group_normalised(norm, output)
    return output


def _group_normalised(norm: nn.GroupNorm, output: torch.Tensor) -> torch.Tensor:
    """Two reductions and two passes, which read the map in its own type and compute in float32; without gradient.

    The squares are of the centred map, because the square of a large mean would cancel a small deviation. The mean is rounded
    to the type of the map first, so that subtracting it rounds little, and the remainder is subtracted too.
    """
    wide = torch.float64 if output.dtype == torch.float64 else torch.float32
    mean = _over_groups(norm, output.permute(0, 2, 3, 1).flatten(1, 2).mean(1, dtype=wide))
    rounded = mean.to(output.dtype)
    centred = output - rounded[:, :, None, None]
    rows, left = centred.permute(0, 2, 3, 1).flatten(1, 2), mean - rounded
    square = torch.linalg.vector_norm(rows, 2, dim=1, dtype=wide).square() / rows.shape[1]
    variance = (_over_groups(norm, square) - left.square()).clamp(min=0)
    scale = (variance + norm.eps).rsqrt() * norm.weight
    shift = norm.bias - left * scale
    return torch.addcmul(shift[:, :, None, None], centred, scale[:, :, None, None], out=centred)


def _over_groups(norm: nn.GroupNorm, values: torch.Tensor) -> torch.Tensor:
    """(N, C), with each group's channels replaced by their mean."""
    parts = values.unflatten(1, (norm.num_groups, -1))
    means: torch.Tensor = parts.mean(2, keepdim=True).expand_as(parts)
    return means.flatten(1)

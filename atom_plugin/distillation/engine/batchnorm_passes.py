"""Batch normalisation by the moments of images that are never in memory together: in chunks, or in several processes.

A chunk of classes at a time, the loss and its gradient are those of one pass over all classes, within rounding: chunks are
sent through the network again and again instead of kept. Let m_d be the mean and variance of the d-th convolution's output
over all images, which depend on the images x and on the moments before them:

    forward    for d = 1 … L:  m_d from the sums of that output and of its squares, added up over chunks
    backward   a_d = dL/dm_d and dL/dx with every m held fixed, added up over chunks;
               for d = L … 1:  dL/dx += a_d dm_d/dx,  a_e += a_d dm_d/dm_e for e < d,  likewise over chunks

which is the chain rule, with a_d whole when its turn comes. Of the real images the forward half suffices. One chunk's features
are in memory at a time. The cost: for a ConvNet-3 the real images pass through the convolutions' work 2.9 times, the
synthetic ones 3.8 times (docs/scaling.md).

Several processes add up their sums; each then goes on with all images' moments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from atom_plugin.distillation.engine.batchnorm import Moments, channel_sums, moments_of_sums
from atom_plugin.distillation.engine.cpu_real_branch import PIECE_BYTES, images_per_piece
from atom_plugin.matchers import widened
from atom_plugin.models.convnet import ConvBlock, ConvNet
from atom_plugin.models.features import Features
from atom_plugin.runtime import distributed
from atom_plugin.runtime.device import full_precision
from atom_plugin.runtime.threads import parallel_map


@contextmanager
def fixed_moments(network: ConvNet, moments: Sequence[Moments]) -> Iterator[None]:
    """Within: the batch normalisations of ``network`` use these ``moments``, whatever batch passes through."""
    norms = [_norm(block) for block in network.conv_blocks()]
    held = [(norm.training, norm.running_mean, norm.running_var) for norm in norms]
    try:
        for norm, (mean, variance) in zip(norms, moments, strict=True):
            norm.eval()
            norm.running_mean, norm.running_var = mean, variance
        yield
    finally:
        for norm, (training, *running) in zip(norms, held, strict=True):
            norm.train(training)
            norm.running_mean, norm.running_var = running


def features_of_all(network: ConvNet, images: torch.Tensor, *, groups: int = 1) -> Features:
    """``network.features(images, groups=groups)``, each batch normalisation by the moments of all processes' images.

    Differentiable: the gradient is that of the sum of all processes' losses, if each takes it of its own.
    """
    return _features(network, images, lambda depth, output: _moments_of_all(output), groups)


@torch.no_grad()
def moments_of(network: ConvNet, chunks: Callable[[], Iterable[torch.Tensor]]) -> list[Moments]:
    """The moments of every block's convolution over all ``chunks`` of images, and over all processes.

    ``chunks`` is asked for them once per block; each is (N_i, C, H, W).
    """
    moments: list[Moments] = []
    for _ in network.blocks:
        sums, kind = torch.zeros((), dtype=torch.float64), torch.float32
        for images in chunks():
            for found in parallel_map(partial(_sums, network, moments), _pieces(network, images)):
                sums = sums + found
            kind = widened(images[:0]).dtype
        moments.append(moments_of_sums(sums, kind=kind))
    return moments


def _sums(network: ConvNet, moments: Sequence[Moments], images: torch.Tensor) -> torch.Tensor:
    return channel_sums(_convolved(network, images, moments))


def _pieces(network: ConvNet, images: torch.Tensor) -> Sequence[torch.Tensor]:
    """Where nothing is kept for backward: pieces that a CPU's cache holds; an accelerator takes all at once."""
    if images.device.type != "cpu":
        return [images]
    pieces: tuple[torch.Tensor, ...] = images.split(images_per_piece(network, images, PIECE_BYTES))
    return pieces


def loss_and_gradients(
    network: ConvNet,
    synthetic: Sequence[Callable[[], tuple[torch.Tensor, torch.Tensor]]],
    groups: Sequence[int],
    loss_of: Callable[[Features], torch.Tensor],
    *,
    images: int,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The sum of all chunks' losses, and its gradient for each chunk's images.

    ``synthetic`` gives a chunk's images (N_i, C, H, W) as the network gets them and the leaf that they are made of, a fresh
    one at each call; ``groups`` are its classes. ``loss_of``, asked once for each chunk in turn, makes its features into its
    part of the loss. ``images`` is their number in all chunks of all processes.
    """
    moments = moments_of(network, lambda: (make()[0] for make in synthetic))
    pulls = [torch.zeros(2, len(mean), dtype=torch.float64, device=mean.device) for mean, _ in moments]
    gradients: list[torch.Tensor] = []
    total = torch.zeros((), dtype=torch.float64)
    for make, classes in zip(synthetic, groups, strict=True):
        seen, leaf = make()
        leaves = _leaves(moments)
        loss = loss_of(_features(network, seen, partial(_given, leaves), classes))
        gradients.append(_pull(loss, None, leaf, leaves, pulls))
        total = total + loss.detach().double().cpu()
    for depth in reversed(range(len(moments))):
        mean, _ = moments[depth]
        of_mean, of_variance = distributed.summed(pulls[depth])
        for index, make in enumerate(synthetic):
            seen, leaf = make()
            leaves = _leaves(moments[:depth])
            output = _convolved(network, seen, leaves)
            # d mean / d output = 1 / n and d variance / d output = 2 (output - mean) / n, n places in all images
            places = images * output.shape[2] * output.shape[3]
            with torch.no_grad():
                centred = widened(output) - _per_channel(mean)
                slope = (_per_channel(of_mean.to(mean)) + 2 * _per_channel(of_variance.to(mean)) * centred) / places
            gradients[index] += _pull(output, slope.to(output), leaf, leaves, pulls)
    return total, gradients


def _pull(
    output: torch.Tensor,
    slope: torch.Tensor | None,
    leaf: torch.Tensor,
    leaves: Sequence[Moments],
    pulls: Sequence[torch.Tensor],
) -> torch.Tensor:
    """The gradient of ``output`` for ``leaf``; that for the moments is added to ``pulls``."""
    flat = [item for pair in leaves for item in pair]
    with full_precision(leaf.device):  # a backward pass runs in the types of its forward one
        first, *others = torch.autograd.grad(output, [leaf, *flat], slope, allow_unused=True)
    for index, gradient in enumerate(others):
        if gradient is not None:
            pulls[index // 2][index % 2] += gradient
    return first if first is not None else torch.zeros_like(leaf)


def _leaves(moments: Sequence[Moments]) -> list[Moments]:
    return [(mean.detach().requires_grad_(), variance.detach().requires_grad_()) for mean, variance in moments]


def _convolved(network: ConvNet, images: torch.Tensor, moments: Sequence[Moments]) -> torch.Tensor:
    """The output of the convolution after the blocks whose ``moments`` are given."""
    blocks = network.conv_blocks()
    for block, known in zip(blocks, moments, strict=False):
        images = block.pool(block.activation(_normalised(block.convolution(images), block, known)))
    output: torch.Tensor = blocks[len(moments)].convolution(images)
    return output


def _features(
    network: ConvNet, images: torch.Tensor, moments: Callable[[int, torch.Tensor], Moments], groups: int
) -> Features:
    maps: list[torch.Tensor] = []
    for depth, block in enumerate(network.conv_blocks()):
        output = block.convolution(images)
        maps.append(block.activation(_normalised(output, block, moments(depth, output))))
        images = block.pool(maps[-1])
    return Features(maps=tuple(maps), embedding=images.flatten(1), groups=groups)


def _normalised(output: torch.Tensor, block: ConvBlock, moments: Moments) -> torch.Tensor:
    norm = _norm(block)
    mean, variance = moments
    scale = norm.weight * (variance + norm.eps).rsqrt()
    shift = norm.bias - mean * scale
    return (output * _per_channel(scale) + _per_channel(shift)).to(output.dtype)


def _given(moments: Sequence[Moments], depth: int, output: torch.Tensor) -> Moments:
    return moments[depth]


def _norm(block: ConvBlock) -> nn.BatchNorm2d:
    assert isinstance(block.normalisation, nn.BatchNorm2d)
    return block.normalisation


def _moments_of_all(output: torch.Tensor) -> Moments:
    rows = widened(output.permute(0, 2, 3, 1).flatten(0, 2))
    count = rows.new_tensor(len(rows), dtype=torch.float64)
    sums: torch.Tensor = _Summed.apply(torch.stack([rows.sum(0), rows.square().sum(0)]).double())
    mean, squares = sums / distributed.summed(count)
    return mean.to(rows.dtype), (squares - mean.square()).clamp(min=0).to(rows.dtype)


class _Summed(torch.autograd.Function):
    """The sum over processes. Each process's loss depends on it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        return distributed.summed(values.clone())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return distributed.summed(gradient.clone())


def _per_channel(values: torch.Tensor) -> torch.Tensor:
    return values.view(1, -1, 1, 1)

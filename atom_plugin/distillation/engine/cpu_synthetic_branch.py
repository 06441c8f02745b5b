"""The synthetic branch: class means of a matcher's descriptors, with gradient, in little memory.

Autograd would keep a block's convolution, normalised map and activated map, each as large as the map, and pass over all of
them again and again. Here a block's tail (normalisation, activation, descriptors, pooling) is one function: it keeps the
convolution's output alone, and computes the rest anew, piece by piece in cache, when the gradient comes back. At IPC 50 on
32x32 images that halves the memory of the step.

Within a piece the gradient is autograd's own, so any matcher and any activation will do. Batch normalisation ties the pieces
together through its mean and variance; its gradient is put together from two sums over all pieces (Ioffe & Szegedy, 2015):
``dx = (g - mean(g) - xhat * mean(g * xhat)) / sigma``, with g the gradient behind the standardised xhat.

"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from atom_plugin.matchers import MeanMatcher, Statistics, class_means
from atom_plugin.models.batchnorm import Moments, batch_moments, normalise, per_channel, standardise
from atom_plugin.models.convnet import ConvBlock, ConvNet
from atom_plugin.runtime import distributed
from atom_plugin.runtime.threads import parallel_map


def recomputed_statistics(
    network: ConvNet, matcher: MeanMatcher, images: torch.Tensor, *, groups: int, per_piece: int
) -> Statistics:
    """``matcher.statistics(network.features(images, groups=groups))`` for images (N, C, H, W), within rounding.

    Differentiable once, with respect to the images. ``per_piece`` images at a time are in cache.
    """
    images = images.contiguous(memory_format=torch.channels_last)
    matched = matcher.matched_maps(len(network.blocks))
    described: list[torch.Tensor] = []
    for depth, block in enumerate(network.conv_blocks()):
        used = matcher if depth < matched else None
        images, *descriptors = _BlockTail.apply(block.convolution(images), block, used, per_piece)
        described += descriptors
    return class_means(matcher, described, matcher.describe_embedding(images.flatten(1)), groups)


class _BlockTail(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, output: torch.Tensor, block: ConvBlock, matcher: MeanMatcher | None, per_piece: int
    ) -> tuple[torch.Tensor, ...]:
        moments = None
        if isinstance(block.normalisation, nn.BatchNorm2d):
            moments = batch_moments(output.split(per_piece))
        ctx.save_for_backward(output)
        ctx.block, ctx.matcher, ctx.per_piece, ctx.moments = block, matcher, per_piece, moments
        parts = parallel_map(
            lambda piece: _tail(_normalised(piece, block, moments), block, matcher), output.split(per_piece)
        )
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (output,) = ctx.saved_tensors
        block, moments = ctx.block, ctx.moments
        result = torch.empty_like(output)
        pieces = list(zip(output.split(ctx.per_piece), result.split(ctx.per_piece), strict=True))
        downs = zip(*(gradient.split(ctx.per_piece) for gradient in gradients), strict=True)

        def through_tail(
            item: tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]],
        ) -> torch.Tensor | None:
            (piece, into), down = item
            # Batch normalisation's standardising is left out of the piece's graph: it hangs on all pieces.
            start = (
                (piece if moments is None else standardise(piece, block.normalisation, moments))
                .detach()
                .requires_grad_()
            )
            with torch.enable_grad():
                normal = block.normalisation(start) if moments is None else _affine(start, block)
                (gradient,) = torch.autograd.grad(_tail(normal, block, ctx.matcher), start, down)
            into.copy_(gradient)
            return None if moments is None else _totals(gradient, start.detach())

        totals = parallel_map(through_tail, zip(pieces, downs, strict=True))
        if moments is not None:
            sums = torch.stack([item for item in totals if item is not None]).sum(0)
            count = sums.new_tensor(output.numel() // output.shape[1], dtype=torch.float64)
            sums, count = distributed.summed_together(sums, count)
            total, product = sums / count
            inverse = per_channel((moments[1] + block.normalisation.eps).rsqrt())

            def centre(item: tuple[torch.Tensor, torch.Tensor]) -> None:
                piece, into = item
                into.sub_(per_channel(total))
                into.addcmul_(standardise(piece, block.normalisation, moments), per_channel(product), value=-1).mul_(
                    inverse
                )

            parallel_map(centre, pieces)
        return result, None, None, None


def _normalised(piece: torch.Tensor, block: ConvBlock, moments: Moments | None) -> torch.Tensor:
    norm = block.normalisation
    if moments is None:
        normal: torch.Tensor = norm(piece)
        return normal
    assert isinstance(norm, nn.BatchNorm2d)
    return normalise(piece, norm, moments)


def _affine(standard: torch.Tensor, block: ConvBlock) -> torch.Tensor:
    norm = block.normalisation
    assert isinstance(norm, nn.BatchNorm2d)
    return torch.addcmul(per_channel(norm.bias), standard, per_channel(norm.weight))


def _tail(normal: torch.Tensor, block: ConvBlock, matcher: MeanMatcher | None) -> tuple[torch.Tensor, ...]:
    """The pooled map, then the descriptors of the map before pooling. Changes ``normal`` in place."""
    if isinstance(block.normalisation, nn.Identity):
        normal = normal.clone(memory_format=torch.preserve_format)  # else the saved convolution would be overwritten
    feature_map = block.activation(normal)
    return (block.pool(feature_map), *(() if matcher is None else matcher.describe_map(feature_map)))


def _totals(gradient: torch.Tensor, standard: torch.Tensor) -> torch.Tensor:
    """Sums per channel of g and of g * xhat: (2, C)."""
    rows, others = (item.permute(0, 2, 3, 1).flatten(0, 2) for item in (gradient, standard))
    return torch.stack([rows.sum(0), torch.linalg.vecdot(rows, others, dim=0)])

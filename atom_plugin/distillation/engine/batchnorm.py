"""Mean and variance of a convolution's output per channel, over pieces of a batch, and over all processes of a run."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn import functional as F

from atom_plugin.matchers import widened
from atom_plugin.models.convnet import ConvBlock
from atom_plugin.runtime import distributed
from atom_plugin.runtime.device import full_precision
from atom_plugin.runtime.threads import parallel_map

Moments = tuple[torch.Tensor, torch.Tensor]
"""Mean and biased variance per channel."""


def batch_moments(outputs: Iterable[torch.Tensor]) -> Moments:
    """Mean and biased variance per channel over all pieces (N_i, C, H, W), of all processes of a run."""
    pieces = list(outputs)
    sums = torch.stack(parallel_map(channel_sums, pieces)).sum(0)
    return moments_of_sums(sums, kind=widened(pieces[0][:0]).dtype)


def channel_sums(output: torch.Tensor) -> torch.Tensor:
    """Per channel of (N, C, H, W) the sum, the sum of squares and their number: float64 (3, C).

    Sums of a piece are float32, their totals float64: the variance loses about log2(1 + mean^2 / variance) bits.
    """
    rows = widened(output.permute(0, 2, 3, 1).flatten(0, 2))
    count = rows.new_full((rows.shape[1],), len(rows), dtype=torch.float64)
    with full_precision(rows.device):
        squares = torch.linalg.vecdot(rows, rows, dim=0)
    return torch.stack([rows.sum(0).double(), squares.double(), count])


def moments_of_sums(sums: torch.Tensor, *, kind: torch.dtype) -> Moments:
    """Mean and biased variance from the :func:`channel_sums` of this process's images, for those of all processes."""
    total, squares, count = distributed.summed(sums)
    mean = total / count
    return mean.to(kind), (squares / count - mean.square()).clamp_(min=0).to(kind)


def patch_moments(block: ConvBlock, images: Iterable[torch.Tensor]) -> Moments:
    """:func:`batch_moments` of ``block.convolution`` of all pieces (N_i, C, H, W), without the convolution.

    An output is w p + b of a patch p of 9 C pixels. Over all patches its mean is w E[p] + b, its variance w Cov[p] w'. All
    patches are those of all processes.
    """
    weight = block.convolution.weight.flatten(1).double()
    bias = block.convolution.bias
    assert bias is not None
    pieces = list(images)

    def run(piece: torch.Tensor) -> torch.Tensor:
        patches = widened(F.unfold(piece, 3, padding=1))
        # One more row of ones, and the products hold the sums.
        patches = torch.cat([patches, patches.new_ones(len(piece), 1, patches.shape[2])], dim=1)
        with full_precision(patches.device):
            return torch.bmm(patches, patches.transpose(1, 2)).double().sum(0)

    products = distributed.summed(torch.stack(parallel_map(run, pieces)).sum(0))
    products = products / products[-1, -1]
    mean = products[-1, :-1]
    covariance = products[:-1, :-1] - torch.outer(mean, mean)
    variance = ((weight @ covariance) * weight).sum(1).clamp_(min=0)
    kind = widened(pieces[0][:0]).dtype
    return (weight @ mean + bias.double()).to(kind), variance.to(kind)

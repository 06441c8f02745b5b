"""Batch normalisation beyond a module's own batch: moments over pieces and processes, and moments that are held fixed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from atom_plugin.errors import ConfigError
from atom_plugin.models.features import widened
from atom_plugin.runtime import distributed
from atom_plugin.runtime.device import full_precision
from atom_plugin.runtime.threads import parallel_map

Moments = tuple[torch.Tensor, torch.Tensor]
"""Mean and biased variance per channel."""


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """The batch normalisations of ``network``, in the order of its modules."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def ties_images(network: nn.Module) -> bool:
    """Whether what ``network`` makes of an image depends on the others of its batch."""
    return any(norm.training for norm in batch_norms(network))


@torch.no_grad()
def measure_moments(network: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Give every batch normalisation the mean moments of its input over ``batches`` of images (N, C, H, W).

    Leaves them in train mode, with moments that average plainly.
    """
    norms = batch_norms(network)
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None  # a plain mean over the batches
    if norms:
        for images in batches:
            network(images)


@contextmanager
def fixed_batch_normalisation(network: nn.Module, images: torch.Tensor) -> Iterator[None]:
    """Within: batch normalisation layers use the moments of ``images`` (N, C, H, W), whatever batch passes through."""
    norms = batch_norms(network)
    before = [(norm.training, norm.momentum) for norm in norms]
    measure_moments(network, [images])
    try:
        for norm in norms:
            norm.eval()
        yield
    finally:
        for norm, (training, momentum) in zip(norms, before, strict=True):
            norm.train(training)
            norm.momentum = momentum


def normalise(images: torch.Tensor, norm: nn.BatchNorm2d, moments: Moments) -> torch.Tensor:
    """``norm`` of (N, C, H, W) by ``moments``."""
    return F.batch_norm(images, *moments, norm.weight, norm.bias, training=False, eps=norm.eps)


def standardise(images: torch.Tensor, norm: nn.BatchNorm2d, moments: Moments) -> torch.Tensor:
    """:func:`normalise` without the scale and shift of ``norm``."""
    return F.batch_norm(images, *moments, training=False, eps=norm.eps)


def per_channel(values: torch.Tensor) -> torch.Tensor:
    """(C,) in the shape that (N, C, H, W) broadcasts with."""
    return values.view(1, -1, 1, 1)


def batch_moments(outputs: Iterable[torch.Tensor]) -> Moments:
    """Mean and biased variance per channel over all pieces (N_i, C, H, W), of all processes of a run."""
    pieces = list(outputs)
    sums = torch.stack(parallel_map(channel_sums, pieces)).sum(0)
    return moments_of_sums(sums, dtype=widened(pieces[0][:0]).dtype)


def channel_sums(output: torch.Tensor) -> torch.Tensor:
    """Per channel of (N, C, H, W) the sum, the sum of squares and their number: float64 (3, C).

    Sums of a piece are float32, their totals float64: the variance loses about log2(1 + mean^2 / variance) bits.
    """
    rows = widened(output.permute(0, 2, 3, 1).flatten(0, 2))
    count = rows.new_full((rows.shape[1],), len(rows), dtype=torch.float64)
    with full_precision(rows.device):
        squares = torch.linalg.vecdot(rows, rows, dim=0)
    return torch.stack([rows.sum(0).double(), squares.double(), count])


def moments_of_sums(sums: torch.Tensor, *, dtype: torch.dtype) -> Moments:
    """Mean and biased variance from the :func:`channel_sums` of this process's images, for those of all processes."""
    total, squares, count = distributed.summed(sums)
    mean = total / count
    return mean.to(dtype), (squares / count - mean.square()).clamp_(min=0).to(dtype)


def patch_moments(convolution: nn.Conv2d, images: Iterable[torch.Tensor]) -> Moments:
    """:func:`batch_moments` of a 3x3 ``convolution`` of all pieces (N_i, C, H, W), without the convolution.

    An output is w p + b of a patch p of 9 C pixels. Over all patches its mean is w E[p] + b, its variance w Cov[p] w'. All
    patches are those of all processes.
    """
    weight, bias = convolution.weight.flatten(1).double(), convolution.bias
    assert bias is not None
    pieces = list(images)

    def products_of(piece: torch.Tensor) -> torch.Tensor:
        patches = widened(F.unfold(piece, 3, padding=1))
        # One more row of ones, and the products hold the sums.
        patches = torch.cat([patches, patches.new_ones(len(piece), 1, patches.shape[2])], dim=1)
        with full_precision(patches.device):
            return torch.bmm(patches, patches.transpose(1, 2)).double().sum(0)

    products = distributed.summed(torch.stack(parallel_map(products_of, pieces)).sum(0))
    products = products / products[-1, -1]
    mean = products[-1, :-1]
    covariance = products[:-1, :-1] - torch.outer(mean, mean)
    variance = ((weight @ covariance) * weight).sum(1).clamp_(min=0)
    dtype = widened(pieces[0][:0]).dtype
    return (weight @ mean + bias.double()).to(dtype), variance.to(dtype)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by the moments of all processes' images, on any device (``nn.SyncBatchNorm`` is CUDA's alone).

    Differentiable: the gradient is that of the sum of all processes' losses, if each takes it of its own. Running moments
    are not kept.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W), in the type that it came in."""
        if not self.training:
            return super().forward(images)
        rows = widened(images.permute(0, 2, 3, 1).flatten(0, 2))
        count = distributed.summed(rows.new_tensor(len(rows), dtype=torch.float64))
        sums: torch.Tensor = _Summed.apply(torch.stack([rows.sum(0), rows.square().sum(0)]).double())
        mean, square = sums / count
        variance = (square - mean.square()).clamp(min=0)
        scale = self.weight * (variance.to(rows.dtype) + self.eps).rsqrt()
        shift = self.bias - mean.to(rows.dtype) * scale
        return (images * per_channel(scale) + per_channel(shift)).to(images.dtype)


def share_batch_norm(network: nn.Module) -> None:
    """Let every batch normalisation of ``network`` take the moments of all processes, in place.

    Raises ConfigError for one that is not a plain ``nn.BatchNorm2d``: what else it does is not known here.
    """
    for norm in batch_norms(network):
        if type(norm) not in (nn.BatchNorm2d, SharedBatchNorm2d):
            raise ConfigError(
                f"{distributed.count()} processes cannot share the moments of {type(norm).__name__}; choose a matching model "
                "without batch normalisation, or use one process"
            )
        norm.__class__ = SharedBatchNorm2d


class _Summed(torch.autograd.Function):
    """The sum over processes. Each process's loss depends on it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        return distributed.summed(values.clone())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return distributed.summed(gradient.clone())

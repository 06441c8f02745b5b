"""Batch normalisation with moments beyond a module's own batch: fixed moments, and moments over several processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from atom_plugin.errors import ConfigError
from atom_plugin.models.features import widened
from atom_plugin.runtime import distributed


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """The batch normalisation layers of ``network``, in the order of its modules."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def ties_images(network: nn.Module) -> bool:
    """Whether the network's output for an image depends on the other images of its batch."""
    return any(norm.training for norm in batch_norms(network))


@torch.no_grad()
def measure_moments(network: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Set the moments of every batch normalisation to the mean moments of its input over ``batches`` of images (N, C, H, W).

    Leaves the layers in train mode, with cumulative averaging.
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


def per_channel(values: torch.Tensor) -> torch.Tensor:
    """(C,) in a shape that broadcasts with (N, C, H, W)."""
    return values.view(1, -1, 1, 1)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by the moments of all processes' images, on any device (``nn.SyncBatchNorm`` needs CUDA).

    Differentiable: if each process differentiates its own loss, the gradient is that of the sum of all losses. Running moments
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
    """Let every batch normalisation of ``network`` use the moments of all processes, in place.

    Raises ConfigError for a layer that is not a plain ``nn.BatchNorm2d``.
    """
    for norm in batch_norms(network):
        if type(norm) not in (nn.BatchNorm2d, SharedBatchNorm2d):
            raise ConfigError(
                f"{distributed.count()} processes cannot share the moments of {type(norm).__name__}; choose a matching model "
                "without batch normalisation, or use one process"
            )
        norm.__class__ = SharedBatchNorm2d


class _Summed(torch.autograd.Function):
    """The sum over processes. Each process's loss depends on it, so its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        return distributed.summed(values.clone())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return distributed.summed(gradient.clone())

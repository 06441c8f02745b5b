"""One comparison of real and synthetic images under one network, by the cheapest way that the matcher allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from atom_plugin.distillation.engine.batchnorm_passes import features_of_all
from atom_plugin.distillation.engine.cpu_real_branch import normalises_by_batch, stream_together
from atom_plugin.distillation.engine.cpu_synthetic_branch import tracked_statistics
from atom_plugin.errors import ConfigError
from atom_plugin.matchers import ImageMatcher, Matcher, MeanMatcher, Statistics
from atom_plugin.models.convnet import ConvNet
from atom_plugin.models.features import Features
from atom_plugin.runtime import distributed

# Real images per class that batch normalisation is fixed with for an ImageMatcher; as in DC's released code.
_FIXING_IMAGES = 16


def compare(
    matcher: Matcher,
    network: ConvNet,
    real: torch.Tensor,
    synthetic: torch.Tensor,
    *,
    groups: int,
    first_class: int = 0,
) -> torch.Tensor:
    """The loss of ``synthetic`` (M, C, H, W) against ``real`` (N, C, H, W), both class-major over ``groups`` classes.

    These are the classes from ``first_class`` on. In several processes each compares its own, and batch normalisation takes
    the moments of all.

    A :class:`MeanMatcher` gets its statistics streamed on a CPU, from whole features elsewhere. An :class:`ImageMatcher` gets
    the network with its batch normalisation fixed to the moments of the real batch, all classes mixed: a class's few
    synthetic images by themselves give no usable ones. Any other matcher gets :class:`~atom_plugin.models.features.Features`.
    """
    real = real.contiguous(memory_format=torch.channels_last)
    synthetic = synthetic.contiguous(memory_format=torch.channels_last)
    if isinstance(matcher, ImageMatcher):
        labels = torch.arange(first_class, first_class + groups, device=real.device)
        each = (labels.repeat_interleave(len(images) // groups) for images in (real, synthetic))
        with fixed_batch_normalisation(network, real.unflatten(0, (groups, -1))[:, :_FIXING_IMAGES].flatten(0, 1)):
            return matcher.loss(network, real, synthetic, *each)
    if not isinstance(matcher, MeanMatcher):
        with torch.no_grad():
            seen = network.features(real, groups=groups)
        return matcher(seen, network.features(synthetic, groups=groups))
    (target,) = real_statistics([matcher], network, real, groups=groups)
    return matcher.compare(target, synthetic_statistics(matcher, network, synthetic, groups=groups))


def real_statistics(
    matchers: Sequence[MeanMatcher], network: ConvNet, real: torch.Tensor, *, groups: int
) -> list[Statistics]:
    """Each matcher's statistics of ``real`` (N, C, H, W), channels-last, from one pass, without gradient."""
    if real.device.type == "cpu":
        return stream_together(network, matchers, real, groups=groups)
    with torch.no_grad():
        seen = _features(network, real, groups)
        return [matcher.statistics(seen) for matcher in matchers]


def synthetic_statistics(matcher: MeanMatcher, network: ConvNet, synthetic: torch.Tensor, *, groups: int) -> Statistics:
    """The matcher's statistics of ``synthetic`` (M, C, H, W), channels-last, with gradient."""
    if synthetic.device.type == "cpu":
        return tracked_statistics(network, matcher, synthetic, groups=groups)
    return matcher.statistics(_features(network, synthetic, groups))


def _features(network: ConvNet, images: torch.Tensor, groups: int) -> Features:
    if distributed.count() > 1 and normalises_by_batch(network):
        return features_of_all(network, images, groups=groups)
    return network.features(images, groups=groups)


def image_gradient(loss: torch.Tensor, images: torch.Tensor, matcher: str) -> torch.Tensor:
    """The gradient of the loss of ``matcher``. Raises ConfigError where that does not depend on ``images``."""
    if not loss.requires_grad:
        raise ConfigError(f"the loss of matcher {matcher!r} does not depend on the synthetic images")
    (gradient,) = torch.autograd.grad(loss, images)
    return gradient


@contextmanager
def fixed_batch_normalisation(network: nn.Module, images: torch.Tensor) -> Iterator[None]:
    """Within: batch normalisation layers use the moments of ``images`` (N, C, H, W), whatever batch passes through."""
    layers = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [(layer.training, layer.momentum) for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.train()
        layer.momentum = None  # a plain average: here of one batch
    if layers:
        with torch.no_grad():
            network(images)
    try:
        for layer in layers:
            layer.eval()
        yield
    finally:
        for layer, (training, momentum) in zip(layers, before, strict=True):
            layer.train(training)
            layer.momentum = momentum

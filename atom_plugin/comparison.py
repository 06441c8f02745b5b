"""One comparison of real and synthetic images under one network, by the cheapest way that the matcher allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from atom_plugin.matchers import ImageMatcher, Matcher, MeanMatcher, Statistics, grouped
from atom_plugin.networks import ConvNet
from atom_plugin.streaming import stream_statistics
from atom_plugin.tracked import tracked_statistics

# Real images per class that batch normalisation is fixed with for an ImageMatcher; as in DC's released code.
_FIXING_IMAGES = 16


def compare(
    matcher: Matcher, network: ConvNet, real: torch.Tensor, synthetic: torch.Tensor, *, groups: int
) -> torch.Tensor:
    """The loss of ``synthetic`` (M, C, H, W) against ``real`` (N, C, H, W), both class-major over ``groups`` classes.

    A :class:`MeanMatcher` gets its statistics streamed on a CPU, from whole features elsewhere. An :class:`ImageMatcher` gets
    the network with its batch normalisation fixed to the moments of the real batch, all classes mixed: a class's few
    synthetic images by themselves give no usable ones. Any other matcher gets :class:`~atom_plugin.features.Features`.
    """
    real = real.contiguous(memory_format=torch.channels_last)
    synthetic = synthetic.contiguous(memory_format=torch.channels_last)
    if isinstance(matcher, ImageMatcher):
        labels = torch.arange(groups, device=real.device)
        each = (labels.repeat_interleave(len(images) // groups) for images in (real, synthetic))
        with fixed_batch_normalisation(network, real.unflatten(0, (groups, -1))[:, :_FIXING_IMAGES].flatten(0, 1)):
            return matcher.loss(network, real, synthetic, *each)
    if not isinstance(matcher, MeanMatcher):
        with torch.no_grad():
            seen = network.features(real, groups=groups)
        return matcher(seen, network.features(synthetic, groups=groups))
    if real.device.type == "cpu":
        target = _in_pieces(stream_statistics, network, matcher, real, groups)
        return matcher.compare(target, _in_pieces(tracked_statistics, network, matcher, synthetic, groups))
    with torch.no_grad():
        target = matcher.statistics(network.features(real, groups=groups))
    return matcher.compare(target, matcher.statistics(network.features(synthetic, groups=groups)))


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


def _in_pieces(
    branch: Callable[..., Statistics], network: ConvNet, matcher: MeanMatcher, images: torch.Tensor, groups: int
) -> Statistics:
    """``matcher.statistics`` by a branch that reduces everything to class means, also where embeddings stay whole."""
    if not matcher.whole_embeddings:
        return branch(network, matcher, images, groups=groups)
    keeper = _EmbeddingKeeper(matcher)
    means = branch(network, keeper, images, groups=groups)
    return (*means, *(grouped(torch.cat(pieces), groups) for pieces in zip(*keeper.kept, strict=True)))


class _EmbeddingKeeper(MeanMatcher):
    """A matcher without its embeddings, which it keeps instead: the branches ask for those of each piece once, in order."""

    def __init__(self, matcher: MeanMatcher) -> None:
        self._matcher = matcher
        self.kept: list[Statistics] = []

    def matched_maps(self, count: int) -> int:
        """The matcher's own."""
        return self._matcher.matched_maps(count)

    def describe_map(self, feature_map: torch.Tensor) -> Statistics:
        """The matcher's own."""
        return self._matcher.describe_map(feature_map)

    def describe_embedding(self, embedding: torch.Tensor) -> Statistics:
        """Nothing to reduce."""
        self.kept.append(self._matcher.describe_embedding(embedding))
        return ()

    def compare(self, real: Statistics, synthetic: Statistics) -> torch.Tensor:
        """The matcher's own."""
        return self._matcher.compare(real, synthetic)

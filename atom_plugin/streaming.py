"""The real branch: class means of a matcher's descriptors, without any full real feature map.

The real batch carries no gradient, so a map is needed only until its descriptors are summed. The batch passes through the
network in pieces that stay in cache: with per-image normalisation piece by piece through all blocks; with batch
normalisation block by block, since a block's statistics need the whole batch. There the first block's convolution is
computed twice (once for its statistics) rather than kept, being cheap, and the deeper ones', a quarter of its size and
less, are kept.

The plain path, ``matcher.statistics(network.features(images))``, is the oracle of the tests, and what runs on
accelerators and for networks other than :class:`~atom_plugin.networks.ConvNet`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional as F

from atom_plugin.matchers import MeanMatcher, Statistics, widened
from atom_plugin.networks import ConvBlock, ConvNet

# Bytes of the first block's map per piece. benchmarks/pieces.py sweeps it.
PIECE_BYTES = 1 << 25


@torch.no_grad()
def stream_statistics(
    network: ConvNet, matcher: MeanMatcher, images: torch.Tensor, *, groups: int, piece_bytes: int = PIECE_BYTES
) -> Statistics:
    """``matcher.statistics(network.features(images, groups=groups))`` for images (N, C, H, W), within rounding."""
    images = images.contiguous(memory_format=torch.channels_last)
    pieces = list(images.split(images_per_piece(network, images, piece_bytes)))
    sums = _ClassSums(matcher, groups, len(images), matched=matcher.matched_maps(len(network.blocks)))
    if network.config.normalisation == "batch":
        _through_batch_normalisation(network, pieces, sums)
    else:
        start = 0
        for piece in pieces:
            features = network.features(piece)
            for depth, feature_map in enumerate(features.maps):
                sums.add_map(depth, feature_map, start)
            sums.add_embedding(features.embedding, start)
            start += len(piece)
    return sums.means()


def images_per_piece(network: ConvNet, images: torch.Tensor, piece_bytes: int) -> int:
    """How many of ``images`` give a first map of ``piece_bytes``; at least one."""
    per_image = network.config.width * images.shape[2] * images.shape[3] * images.element_size()
    return max(1, piece_bytes // per_image)


class _ClassSums:
    """Sums descriptors of pieces by class; images are class-major with equally many per class."""

    def __init__(self, matcher: MeanMatcher, groups: int, count: int, *, matched: int) -> None:
        self._matcher = matcher
        self._groups = groups
        self._per_class = count // groups
        self._matched = matched
        self._sums: dict[tuple[int, int], torch.Tensor] = {}

    def add_map(self, depth: int, feature_map: torch.Tensor, start: int) -> None:
        """Add the map of block ``depth`` for the images from ``start`` on."""
        if depth < self._matched:
            self._add(depth, self._matcher.describe_map(feature_map), start)

    def add_embedding(self, embedding: torch.Tensor, start: int) -> None:
        """Add the embedding of the images from ``start`` on."""
        self._add(self._matched, self._matcher.describe_embedding(embedding), start)

    def means(self) -> Statistics:
        """Class means, in the order of :meth:`MeanMatcher.statistics`."""
        return tuple(self._sums[key] / self._per_class for key in sorted(self._sums))

    def _add(self, depth: int, described: Statistics, start: int) -> None:
        for index, descriptor in enumerate(described):
            wide = widened(descriptor)
            total = self._sums.setdefault((depth, index), wide.new_zeros(self._groups, wide.shape[1]))
            label = start // self._per_class
            # A piece holds a run of images, so it meets a run of classes: the first and last perhaps in part.
            for part in wide.tensor_split(self._borders(start, len(wide))):
                total[label] += part.sum(0)
                label += 1

    def _borders(self, start: int, length: int) -> list[int]:
        first = (start // self._per_class + 1) * self._per_class - start
        return list(range(first, length, self._per_class))


def _through_batch_normalisation(network: ConvNet, pieces: list[torch.Tensor], sums: _ClassSums) -> None:
    blocks = network.conv_blocks()
    weight, bias = _folded(blocks[0], batch_moments(blocks[0].convolution(piece) for piece in pieces))
    outputs, start = [], 0
    for piece in pieces:
        feature_map = blocks[0].activation(F.conv2d(piece, weight, bias, padding=1))
        sums.add_map(0, feature_map, start)
        outputs.append(_next(blocks, 0, blocks[0].pool(feature_map), sums, start))
        start += len(piece)
    for depth, block in enumerate(blocks[1:], start=1):
        norm = block.normalisation
        assert isinstance(norm, nn.BatchNorm2d)
        mean, variance = batch_moments(outputs)
        start = 0
        for index, output in enumerate(outputs):
            normal = F.batch_norm(output, mean, variance, norm.weight, norm.bias, training=False, eps=norm.eps)
            feature_map = block.activation(normal)
            sums.add_map(depth, feature_map, start)
            outputs[index] = _next(blocks, depth, block.pool(feature_map), sums, start)
            start += len(output)


def _next(blocks: list[ConvBlock], depth: int, pooled: torch.Tensor, sums: _ClassSums, start: int) -> torch.Tensor:
    """The next block's convolution of a pooled piece, while the piece is in cache; after the last, its embedding."""
    if depth + 1 < len(blocks):
        output: torch.Tensor = blocks[depth + 1].convolution(pooled)
        return output
    sums.add_embedding(pooled.flatten(1), start)
    return pooled


def batch_moments(outputs: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance per channel over all pieces (N_i, C, H, W).

    Sums of a piece are float32, their totals float64: the variance loses about log2(1 + mean^2 / variance) bits.
    """
    count = 0
    total = squares = torch.zeros((), dtype=torch.float64)
    for output in outputs:
        rows = widened(output.permute(0, 2, 3, 1).flatten(0, 2))
        total = total + rows.sum(0).double()
        squares = squares + torch.linalg.vecdot(rows, rows, dim=0).double()
        count += len(rows)
    mean = total / count
    variance = (squares / count - mean.square()).clamp_(min=0)
    return mean.to(rows.dtype), variance.to(rows.dtype)


def _folded(block: ConvBlock, moments: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The block's convolution with its batch normalisation folded in: weight and bias."""
    norm, convolution = block.normalisation, block.convolution
    assert isinstance(norm, nn.BatchNorm2d) and convolution.bias is not None
    mean, variance = moments
    scale = norm.weight * (variance + norm.eps).rsqrt()
    weight = (convolution.weight * scale.view(-1, 1, 1, 1)).contiguous(memory_format=torch.channels_last)
    return weight, norm.bias + (convolution.bias - mean) * scale

"""The real branch: class means of a matcher's descriptors, without any full real feature map.

The real batch carries no gradient, so a map is needed only until its descriptors are summed. The batch passes through the
network in pieces that stay in cache, a thread each: with per-image normalisation piece by piece through all blocks; with
batch normalisation block by block, since a block's statistics need the whole batch. The first block's follow from those of
its 3x3 patches, before any convolution; the deeper convolutions' outputs, a quarter of its size and less, are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from atom_plugin.matchers import MeanMatcher, Statistics, grouped
from atom_plugin.models.batchnorm import (
    Moments,
    batch_moments,
    channel_sums,
    moments_of_sums,
    normalise,
    patch_moments,
    ties_images,
)
from atom_plugin.models.convnet import ConvBlock, ConvNet
from atom_plugin.models.features import widened
from atom_plugin.runtime.threads import parallel_map


@torch.no_grad()
def stream_statistics(
    network: ConvNet, matcher: MeanMatcher, pieces: Sequence[torch.Tensor], *, groups: int, by_patches: bool = True
) -> Statistics:
    """``matcher.statistics(network.features(images, groups=groups))`` of channels-last ``pieces`` (N_i, C, H, W) of images.

    ``by_patches``: the first batch normalisation's moments come from the images' patches. Else the first convolution is
    computed for them, and once more for its map.
    """
    sums = _ClassSums(matcher, groups, sum(map(len, pieces)), len(network.blocks))
    if ties_images(network):
        outputs: Sequence[torch.Tensor] = pieces
        for depth in range(len(network.blocks)):
            outputs = _through_block(network.conv_blocks(), depth, outputs, sums, by_patches=by_patches)
    else:
        _through_all_blocks(network, pieces, sums)
    return sums.means()


_Part = tuple[tuple[int, int], int, torch.Tensor]
"""Of one descriptor (depth, index), from one piece: the first class that it meets, and its sums over classes from there."""


class _ClassSums:
    """Sums a matcher's descriptors of pieces by class; images are class-major with equally many per class.

    Descriptions may be asked for in any thread; what they give is added up in the order of the pieces.
    """

    def __init__(self, matcher: MeanMatcher, groups: int, count: int, depth: int) -> None:
        self._matcher = matcher
        self._groups = groups
        self._per_class = count // groups
        self._matched = matcher.matched_maps(depth)
        self._sums: dict[tuple[int, int], torch.Tensor] = {}
        self._whole: dict[tuple[int, int], list[torch.Tensor]] = {}

    def of_map(self, depth: int, feature_map: torch.Tensor, start: int) -> list[_Part]:
        """What the map of block ``depth`` adds, for the images from ``start`` on."""
        return self._parts(depth, self._matcher.describe_map(feature_map), start) if depth < self._matched else []

    def of_embedding(self, embedding: torch.Tensor, start: int) -> list[_Part]:
        """What the embedding adds, for the images from ``start`` on."""
        described = self._matcher.describe_embedding(embedding)
        if self._matcher.whole_embeddings:
            return [((self._matched, index), -1, widened(item)) for index, item in enumerate(described)]
        return self._parts(self._matched, described, start)

    def add(self, parts: Iterable[_Part]) -> None:
        """Add what the two above gave."""
        for key, first, values in parts:
            if first < 0:
                self._whole.setdefault(key, []).append(values)
                continue
            total = self._sums.setdefault(key, values.new_zeros(self._groups, values.shape[1]))
            total[first : first + len(values)] += values

    def means(self) -> Statistics:
        """Class means, in the order of :meth:`MeanMatcher.statistics`."""
        means = {key: total / self._per_class for key, total in self._sums.items()}
        whole = {key: grouped(torch.cat(values), self._groups) for key, values in self._whole.items()}
        return tuple(value for _, value in sorted({**means, **whole}.items()))

    def _parts(self, depth: int, described: Statistics, start: int) -> list[_Part]:
        # A piece holds a run of images, so it meets a run of classes: the first and last perhaps in part.
        first, length = start // self._per_class, len(described[0]) if described else 0
        borders = list(range((first + 1) * self._per_class - start, length, self._per_class))
        return [
            ((depth, index), first, torch.stack([part.sum(0) for part in widened(item).tensor_split(borders)]))
            for index, item in enumerate(described)
        ]


def _with_starts(pieces: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, int]]:
    """Each piece with the number of images before it."""
    start = 0
    for piece in pieces:
        yield piece, start
        start += len(piece)


def _through_all_blocks(network: ConvNet, pieces: Sequence[torch.Tensor], sums: _ClassSums) -> None:
    def run(item: tuple[torch.Tensor, int]) -> list[_Part]:
        outputs, start = item
        found: list[_Part] = []
        for depth, block in enumerate(network.blocks):
            feature_map, outputs = block(outputs)
            found += sums.of_map(depth, feature_map, start)
        return found + sums.of_embedding(outputs.flatten(1), start)

    for found in parallel_map(run, _with_starts(pieces)):
        sums.add(found)


def _through_block(
    blocks: Sequence[ConvBlock], depth: int, outputs: Sequence[torch.Tensor], sums: _ClassSums, *, by_patches: bool
) -> list[torch.Tensor]:
    """From what block ``depth`` normalises (the images, for the first) to what the next one does."""
    block, following = blocks[depth], blocks[depth + 1 : depth + 2]
    normalised = _first(block, outputs, by_patches=by_patches) if depth == 0 else _deeper(block, outputs)

    def run(item: tuple[torch.Tensor, int]) -> tuple[torch.Tensor, list[_Part]]:
        output, start = item
        feature_map = block.activation(normalised(output))
        found = sums.of_map(depth, feature_map, start)
        pooled = block.pool(feature_map)
        if not following:
            found += sums.of_embedding(pooled.flatten(1), start)
        for other in following:  # its convolution, while the piece is in cache
            pooled = other.convolution(pooled)
        return pooled, found

    results = parallel_map(run, _with_starts(outputs))
    for _, found in results:
        sums.add(found)
    return [output for output, _ in results]


def _first(
    block: ConvBlock, images: Sequence[torch.Tensor], *, by_patches: bool
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The first block's convolution and normalisation in one, for a piece."""
    if by_patches:
        moments = patch_moments(block.convolution, images)
    else:
        sums = parallel_map(lambda piece: channel_sums(block.convolution(piece)), images)
        moments = moments_of_sums(torch.stack(sums).sum(0), dtype=widened(images[0][:0]).dtype)
    weight, bias = _folded(block, moments)
    return lambda piece: F.conv2d(piece, weight, bias, padding=1)


def _deeper(block: ConvBlock, outputs: Sequence[torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """A deeper block's normalisation of a piece of its convolution's ``outputs``."""
    norm = block.normalisation
    assert isinstance(norm, nn.BatchNorm2d)
    moments = batch_moments(outputs)
    return lambda piece: normalise(piece, norm, moments)


def _folded(block: ConvBlock, moments: Moments) -> tuple[torch.Tensor, torch.Tensor]:
    """The block's convolution with its batch normalisation folded in: weight and bias."""
    norm, convolution = block.normalisation, block.convolution
    assert isinstance(norm, nn.BatchNorm2d) and convolution.bias is not None
    mean, variance = moments
    scale = norm.weight * (variance + norm.eps).rsqrt()
    weight = (convolution.weight * scale.view(-1, 1, 1, 1)).contiguous(memory_format=torch.channels_last)
    return weight, norm.bias + (convolution.bias - mean) * scale

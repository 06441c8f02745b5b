"""The real branch: class means of matchers' descriptors, without any full real feature map.

The real batch carries no gradient, so a map is needed only until its descriptors are summed. The batch passes through the
network in pieces that stay in cache, a thread each: with per-image normalisation piece by piece through all blocks; with
batch normalisation block by block, since a block's statistics need the whole batch. The first block's follow from those of
its 3x3 patches, before any convolution; the deeper convolutions' outputs, a quarter of its size and less, are kept.

The plain path, ``matcher.statistics(network.features(images))``, is the oracle of the tests, and what runs on
accelerators and for networks other than :class:`~atom_plugin.models.convnet.ConvNet`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from atom_plugin.distillation.engine.batchnorm import Moments, batch_moments, patch_moments
from atom_plugin.matchers import MeanMatcher, Statistics, grouped, widened
from atom_plugin.models.convnet import ConvBlock, ConvNet
from atom_plugin.runtime.threads import parallel_map

# Bytes of the first block's map per piece. benchmarks/pieces.py sweeps it.
PIECE_BYTES = 1 << 24


def stream_statistics(
    network: ConvNet, matcher: MeanMatcher, images: torch.Tensor, *, groups: int, piece_bytes: int = PIECE_BYTES
) -> Statistics:
    """``matcher.statistics(network.features(images, groups=groups))`` for images (N, C, H, W), within rounding."""
    return stream_together(network, [matcher], images, groups=groups, piece_bytes=piece_bytes)[0]


@torch.no_grad()
def stream_together(
    network: ConvNet,
    matchers: Sequence[MeanMatcher],
    images: torch.Tensor,
    *,
    groups: int,
    piece_bytes: int = PIECE_BYTES,
) -> list[Statistics]:
    """:func:`stream_statistics` of several matchers, in one pass of the images (N, C, H, W)."""
    images = images.contiguous(memory_format=torch.channels_last)
    pieces = images.split(images_per_piece(network, images, piece_bytes))
    starts = [0]
    for piece in pieces[:-1]:
        starts.append(starts[-1] + len(piece))
    sums = [_ClassSums(matcher, groups, len(images), len(network.blocks)) for matcher in matchers]
    if normalises_by_batch(network):
        _through_batch_normalisation(network, pieces, starts, sums)
    else:
        _through_blocks(network, pieces, starts, sums)
    return [item.means() for item in sums]


def normalises_by_batch(network: ConvNet) -> bool:
    """Whether batch normalisations take the moments of what passes, rather than those they hold."""
    return any(isinstance(norm, nn.BatchNorm2d) and norm.training for norm in network.modules())


def images_per_piece(network: ConvNet, images: torch.Tensor, piece_bytes: int) -> int:
    """How many of ``images`` give a first map of ``piece_bytes``; at least one."""
    per_image = network.config.width * images.shape[2] * images.shape[3] * images.element_size()
    return max(1, piece_bytes // per_image)


_Part = tuple[tuple[int, int], int, torch.Tensor]
"""Of one descriptor (depth, index), from one piece: the first class that it meets, and its sums over classes from there."""


class _ClassSums:
    """Sums one matcher's descriptors of pieces by class; images are class-major with equally many per class.

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


def _through_blocks(
    network: ConvNet, pieces: Sequence[torch.Tensor], starts: Sequence[int], sums: Sequence[_ClassSums]
) -> None:
    def run(item: tuple[torch.Tensor, int]) -> list[list[_Part]]:
        outputs, start = item
        found: list[list[_Part]] = [[] for _ in sums]
        for depth, block in enumerate(network.blocks):
            feature_map, outputs = block(outputs)
            _describe(sums, found, depth, feature_map, start)
        _describe(sums, found, None, outputs.flatten(1), start)
        return found

    _add(sums, parallel_map(run, zip(pieces, starts, strict=True)))


def _through_batch_normalisation(
    network: ConvNet, pieces: Sequence[torch.Tensor], starts: Sequence[int], sums: Sequence[_ClassSums]
) -> None:
    outputs = list(pieces)
    for depth in range(len(network.blocks)):
        outputs = _through_block(network.conv_blocks(), depth, outputs, starts, sums)


def _through_block(
    blocks: Sequence[ConvBlock],
    depth: int,
    outputs: Sequence[torch.Tensor],
    starts: Sequence[int],
    sums: Sequence[_ClassSums],
) -> list[torch.Tensor]:
    """From what block ``depth`` normalises (the images, for the first) to what the next one does."""
    block, following = blocks[depth], blocks[depth + 1 : depth + 2]
    normalise = _first(block, outputs) if depth == 0 else _deeper(block, outputs)

    def run(item: tuple[torch.Tensor, int]) -> tuple[torch.Tensor, list[list[_Part]]]:
        output, start = item
        found: list[list[_Part]] = [[] for _ in sums]
        feature_map = block.activation(normalise(output))
        _describe(sums, found, depth, feature_map, start)
        pooled = block.pool(feature_map)
        if not following:
            _describe(sums, found, None, pooled.flatten(1), start)
        for other in following:  # its convolution, while the piece is in cache
            pooled = other.convolution(pooled)
        return pooled, found

    results = parallel_map(run, zip(outputs, starts, strict=True))
    _add(sums, [found for _, found in results])
    return [output for output, _ in results]


def _first(block: ConvBlock, images: Sequence[torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The first block's convolution and normalisation in one, for a piece."""
    weight, bias = _folded(block, patch_moments(block, images))
    return lambda piece: F.conv2d(piece, weight, bias, padding=1)


def _deeper(block: ConvBlock, outputs: Sequence[torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """A deeper block's normalisation of a piece of its convolution's ``outputs``."""
    norm = block.normalisation
    assert isinstance(norm, nn.BatchNorm2d)
    mean, variance = batch_moments(outputs)
    return lambda piece: F.batch_norm(piece, mean, variance, norm.weight, norm.bias, training=False, eps=norm.eps)


def _describe(
    sums: Sequence[_ClassSums], found: list[list[_Part]], depth: int | None, seen: torch.Tensor, start: int
) -> None:
    """Let every matcher describe what was ``seen``: the map of block ``depth``, or the embedding."""
    for item, parts in zip(sums, found, strict=True):
        parts.extend(item.of_embedding(seen, start) if depth is None else item.of_map(depth, seen, start))


def _add(sums: Sequence[_ClassSums], results: Iterable[list[list[_Part]]]) -> None:
    for found in results:
        for item, parts in zip(sums, found, strict=True):
            item.add(parts)


def _folded(block: ConvBlock, moments: Moments) -> tuple[torch.Tensor, torch.Tensor]:
    """The block's convolution with its batch normalisation folded in: weight and bias."""
    norm, convolution = block.normalisation, block.convolution
    assert isinstance(norm, nn.BatchNorm2d) and convolution.bias is not None
    mean, variance = moments
    scale = norm.weight * (variance + norm.eps).rsqrt()
    weight = (convolution.weight * scale.view(-1, 1, 1, 1)).contiguous(memory_format=torch.channels_last)
    return weight, norm.bias + (convolution.bias - mean) * scale

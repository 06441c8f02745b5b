"""One distillation step: the loss of real and synthetic images under the current network, and its gradient.

ATOM, algorithm 1 (Khaki et al., 2024), for the classes of this process:

1. take a real batch of every class, and augment it and the class's synthetic images alike;
2. compare the two under the network (:func:`compare`);
3. differentiate the loss with respect to the synthetic images.

Steps under one network may share a real batch and its augmentation. The statistics of the real images, which do not depend on
the synthetic ones, are then computed in the first of these steps and kept for the others.

The loss is a sum over classes, so the gradient of a class's images needs only that class, as long as the network processes each
image separately: if memory is short, one chunk of classes after the other passes (:mod:`.chunking`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial

import torch

from atom_plugin.distillation.engine import Engine, blank_features
from atom_plugin.distillation.engine.calibration import Calibration
from atom_plugin.distillation.engine.chunking import Chunks
from atom_plugin.distillation.engine.real_batches import RealBatches
from atom_plugin.errors import ConfigError
from atom_plugin.matchers import ImageMatcher, Matcher, MeanMatcher, Statistics
from atom_plugin.models.batchnorm import fixed_batch_normalisation
from atom_plugin.models.convnet import ConvNet
from atom_plugin.runtime import distributed
from atom_plugin.runtime.device import autocast, full_precision
from atom_plugin.transforms.augmentation import Draw

Decode = Callable[[torch.Tensor], torch.Tensor]
"""Stored images (n, C, H, W) as networks see them, (n * tiles, C, H, W), differentiably: unpacked and preprocessed."""

# Real images per class that batch normalisation is fixed with for an ImageMatcher; as in DC's released code.
_FIXING_IMAGES = 16


class MatchingStep:
    """Compares real ``batches`` with synthetic images, chunk by chunk; convolutions run in ``precision``.

    ``sharing`` consecutive steps get the same iteration and draw, and share the statistics of its real batch; that needs a
    :class:`MeanMatcher`.
    """

    def __init__(
        self,
        matcher: Matcher,
        engine: Engine,
        batches: RealBatches,
        chunks: Chunks,
        *,
        decode: Decode,
        calibration: Calibration | None = None,
        sharing: int = 1,
        precision: str,
    ) -> None:
        self._matcher = matcher
        self._engine = engine
        self._batches = batches
        self._chunks = chunks
        self._decode = decode
        self._calibration = calibration
        self._sharing = sharing
        self._shared: tuple[int, list[Statistics]] | None = None
        self._precision = precision

    def __call__(self, iteration: int, draw: Draw, images: torch.Tensor) -> tuple[float, torch.Tensor]:
        """The loss of all classes, the same in every process, and its gradient for ``images``, this process's.

        ``images``, in stored form, are (own classes, ipc, C, H, W); ``draw`` is the augmentation of all classes, and
        ``iteration`` has the real batch. Raises ConfigError for a loss that does not depend on the images.
        """
        losses, gradients = [], []
        for classes, compared in self._comparisons(iteration, draw):
            leaf = images.detach()[_rows(classes, self._chunks.own.start)].requires_grad_()
            decoded = self._decode(leaf.flatten(0, 1)).unflatten(0, (len(classes), -1))
            synthetic = _augmented(draw, classes, decoded)
            with autocast(images.device, self._precision):
                loss = compared(synthetic)
                if self._calibration is not None:
                    loss = loss + self._calibration.loss(synthetic, groups=len(classes), first_class=classes.start)
            gradients.append(image_gradient(loss, leaf, self._matcher))
            losses.append(loss.detach())
        total = losses[0] if len(losses) == 1 else torch.stack(losses).double().sum()
        if distributed.count() > 1:
            total = distributed.summed(total.double().cpu())
        return float(total), gradients[0] if len(gradients) == 1 else torch.cat(gradients)

    def _comparisons(
        self, iteration: int, draw: Draw
    ) -> Iterator[tuple[range, Callable[[torch.Tensor], torch.Tensor]]]:
        """Chunk by chunk: its classes, and the loss of their synthetic images, decoded and augmented, as a function."""
        if self._sharing > 1:
            for classes, target in zip(self._chunks.own_chunks, self._targets(iteration, draw), strict=True):
                yield classes, partial(self._against, target, groups=len(classes))
            return
        for classes, real in self._real(iteration, draw):
            sides = partial(compare, self._matcher, self._engine, real)
            yield classes, partial(sides, groups=len(classes), first_class=classes.start)

    def _targets(self, iteration: int, draw: Draw) -> list[Statistics]:
        """The statistics of the real batch, chunk by chunk; computed by the first step that asks for this iteration's."""
        assert isinstance(self._matcher, MeanMatcher)
        if self._shared is None or self._shared[0] != iteration:
            found, side = [], self._matcher.real_side
            for classes, real in self._real(iteration, draw):
                with autocast(real.device, self._precision):
                    found.append(self._engine.real(side, real, groups=len(classes)))
            self._shared = iteration, found
        return self._shared[1]

    def _against(self, target: Statistics, synthetic: torch.Tensor, *, groups: int) -> torch.Tensor:
        """The loss of ``synthetic`` (M, C, H, W), class-major over ``groups`` classes, against their ``target``."""
        assert isinstance(self._matcher, MeanMatcher)
        return self._matcher.compare(target, self._engine.synthetic(self._matcher, synthetic, groups=groups))

    def _real(self, iteration: int, draw: Draw) -> Iterator[tuple[range, torch.Tensor]]:
        """Chunk by chunk: its classes and their real images, augmented; the next chunk is announced to the batches."""
        chosen, following = self._batches.choose(iteration), self._batches.choose(iteration + self._sharing)
        chunks = self._chunks.own_chunks
        wanted = [*(chosen[_rows(classes)] for classes in chunks), following[_rows(chunks[0])]]
        for classes, (indices, ahead) in zip(chunks, itertools.pairwise(wanted), strict=True):
            with torch.no_grad():
                real = self._batches.fetch(indices, ahead=ahead)
                real = _augmented(draw, classes, real.unflatten(0, (len(classes), -1)))
            yield classes, real


def compare(
    matcher: Matcher, engine: Engine, real: torch.Tensor, synthetic: torch.Tensor, *, groups: int, first_class: int = 0
) -> torch.Tensor:
    """The loss of ``synthetic`` (M, C, H, W) against ``real`` (N, C, H, W), both class-major over ``groups`` classes.

    These are the classes from ``first_class`` on. In several processes each compares its own, and batch normalisation uses the
    moments of all.

    A :class:`MeanMatcher` compares the statistics that the engine computes. An :class:`ImageMatcher` gets the network with its
    batch normalisation fixed to the moments of the real batch, all classes mixed, because a class's few synthetic images give
    no usable moments. Any other matcher gets :class:`~atom_plugin.models.features.Features`.
    """
    if isinstance(matcher, MeanMatcher):
        target = engine.real(matcher.real_side, real, groups=groups)
        return matcher.compare(target, engine.synthetic(matcher, synthetic, groups=groups))
    if isinstance(matcher, ImageMatcher):
        fixing = real.unflatten(0, (groups, -1))[:, :_FIXING_IMAGES].flatten(0, 1)
        with fixed_batch_normalisation(engine.network, fixing):
            return matcher.grouped_loss(engine.network, real, synthetic, groups=groups, first_class=first_class)
    with torch.no_grad():
        seen = engine.features(real, groups=groups)
    return matcher(seen, engine.features(synthetic, groups=groups))


def check_matched(matcher: Matcher, engine: Engine, image_shape: tuple[int, int, int]) -> None:
    """Raises ConfigError if ``matcher`` compares maps, but the network has none for images (C, H, W).

    A ConvNet of one block is allowed, since its depth was chosen: there only the embedding is compared.
    """
    if not isinstance(matcher, MeanMatcher) or isinstance(engine.network, ConvNet):
        return
    seen = blank_features(engine, image_shape)
    with torch.no_grad():
        compares = seen.maps and matcher.describe_map(seen.maps[0])
    if (compares or not seen.maps) and matcher.matched_maps(len(seen.maps)) < 1:
        raise ConfigError(
            f"the network gives {len(seen.maps)} map(s), and the last is not compared, so no map is left; use a "
            "deeper network, name layers with --matching-layers, or match only embeddings with --matcher dm"
        )


def image_gradient(loss: torch.Tensor, images: torch.Tensor, matcher: object) -> torch.Tensor:
    """The gradient of the loss of ``matcher``. Raises ConfigError if the loss does not depend on ``images``."""
    if not loss.requires_grad:
        raise ConfigError(
            f"the loss of the matcher {type(matcher).__name__} does not depend on the synthetic "
            "images; choose another matcher"
        )
    (gradient,) = torch.autograd.grad(loss, images)
    return gradient


def _augmented(draw: Draw, classes: range, images: torch.Tensor) -> torch.Tensor:
    """Images (K, n, C, H, W) of ``classes``, augmented: channels-last (K * n, C, H, W)."""
    with full_precision(images.device):
        augmented = draw.of(classes).apply(images).flatten(0, 1)
    return augmented.contiguous(memory_format=torch.channels_last)


def _rows(classes: range, first: int = 0) -> slice:
    return slice(classes.start - first, classes.stop - first)

"""The loss of one step and its gradient, part by part: the classes of this process, as many at a time as the budget allows.

The loss is a sum over classes, so the gradient of a class's images needs that class alone, as long as the network treats each
image by itself: one chunk of classes after the other is fetched, compared and differentiated. Batch normalisation ties all
classes together; :mod:`.batch_statistics` then makes the same of it in more passes. One chunk in one process is the plain step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial

import torch

from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.engine.batchnorm_passes import (
    fixed_moments,
    loss_and_gradients,
    moments_of,
)
from atom_plugin.distillation.engine.chunking import Parts, batch_normalised
from atom_plugin.distillation.engine.comparison import compare, image_gradient, real_statistics
from atom_plugin.distillation.engine.real_batches import RealBatches
from atom_plugin.matchers import Matcher, MeanMatcher
from atom_plugin.models.convnet import ConvNet
from atom_plugin.models.features import Features
from atom_plugin.runtime import distributed
from atom_plugin.runtime.device import autocast, full_precision
from atom_plugin.transforms.augmentation import Draw

Made = tuple[torch.Tensor, torch.Tensor]  # augmented images, and the leaf they come from


class MatchingStep:
    """Compares ``batches`` with synthetic images under ``network`` as it stands when called."""

    def __init__(
        self, config: DistillConfig, matcher: Matcher, network: ConvNet, batches: RealBatches, parts: Parts
    ) -> None:
        self._config = config
        self._matcher = matcher
        self._network = network
        self._batches = batches
        self._parts = parts
        self._in_passes = parts.chunked and batch_normalised(network)

    def __call__(self, iteration: int, draw: Draw, images: torch.Tensor) -> tuple[float, torch.Tensor]:
        """The loss of all classes, the same in every process, and its gradient for ``images``, this process's.

        ``images`` are (own classes * ipc, C, H, W); ``draw`` is for all classes. Raises ConfigError for a loss that does not
        depend on them.
        """
        loss, gradients = (self._by_passes if self._in_passes else self._by_chunks)(iteration, draw, images)
        gradient = gradients[0] if len(gradients) == 1 else torch.cat(gradients)
        if distributed.count() > 1:
            loss = distributed.summed(loss.double().cpu())
        return float(loss), gradient

    def gradient(
        self, draw: Draw, images: torch.Tensor, classes: range, loss_of: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A loss of the augmented images of ``classes``, and its gradient for these of ``images``."""
        synthetic, leaf = self._synthetic(draw, images, classes)
        with autocast(images.device, self._config.precision):
            loss = loss_of(synthetic)
        return loss.detach(), image_gradient(loss, leaf, self._config.matcher)

    def real(self, iteration: int, draw: Draw, *, again: bool = False) -> Iterator[tuple[range, torch.Tensor]]:
        """Chunk by chunk: its classes and their real images, augmented. ``again``: they will be asked for once more."""
        chunks, chosen = self._parts.chunks, self._batches.choose(iteration)
        device = next(self._network.parameters()).device
        following = chosen if again else self._batches.choose(iteration + 1)
        wanted = [*(chosen[_rows(classes)] for classes in chunks), following[_rows(chunks[0])]]
        for classes, (indices, ahead) in zip(chunks, itertools.pairwise(wanted), strict=True):
            with torch.no_grad(), full_precision(device):
                real = self._batches.fetch(indices, ahead=ahead)
                real = draw.of(classes).apply(real.unflatten(0, (len(classes), -1))).flatten(0, 1)
            yield classes, real.contiguous(memory_format=torch.channels_last)

    def _by_chunks(self, iteration: int, draw: Draw, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        losses, gradients = [], []
        for classes, real in self.real(iteration, draw):
            compared = partial(
                compare, self._matcher, self._network, real, groups=len(classes), first_class=classes.start
            )
            loss, gradient = self.gradient(draw, images, classes, compared)
            losses.append(loss)
            gradients.append(gradient)
        return (losses[0] if len(losses) == 1 else torch.stack(losses).double().sum()), gradients

    def _by_passes(self, iteration: int, draw: Draw, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        matcher, network, chunks = self._matcher, self._network, self._parts.chunks
        assert isinstance(matcher, MeanMatcher)  # plan() refuses others
        with autocast(images.device, self._config.precision):
            moments = moments_of(network, lambda: (real for _, real in self.real(iteration, draw, again=True)))
            following = self.real(iteration, draw)

            def loss_of(features: Features) -> torch.Tensor:
                with fixed_moments(network, moments):
                    (target,) = real_statistics([matcher], network, next(following)[1], groups=features.groups)
                return matcher.compare(target, matcher.statistics(features))

            return loss_and_gradients(
                network,
                [partial(self._synthetic, draw, images, classes) for classes in chunks],
                [len(classes) for classes in chunks],
                loss_of,
                images=self._parts.owners[-1].stop * self._config.ipc,
            )

    def _synthetic(self, draw: Draw, images: torch.Tensor, classes: range) -> Made:
        first, ipc = self._parts.own.start, self._config.ipc
        leaf = images.detach()[(classes.start - first) * ipc : (classes.stop - first) * ipc].requires_grad_()
        with full_precision(images.device):
            synthetic = draw.of(classes).apply(leaf.unflatten(0, (len(classes), ipc))).flatten(0, 1)
        return synthetic.contiguous(memory_format=torch.channels_last), leaf


def _rows(classes: range) -> slice:
    return slice(classes.start, classes.stop)

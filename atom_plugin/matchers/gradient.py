"""Gradient matching: DC (Zhao, Mopuri & Bilen, 2021) and, with siamese augmentation, DSA (Zhao & Bilen, 2021).

For each class k, g_T and g_S are the gradients of the mean cross entropy of the class's real and synthetic images with respect
to the network's weights (DC, eq. 9 and 10):

    loss = loss_scale * sum_k sum_layers sum_i  1 - <g_T[i], g_S[i]> / (|g_T[i]| |g_S[i]| + 1e-6)

i runs over the output rows of a layer's weight: a convolution's is flattened per output channel, a linear layer's is one row
per output. Biases and the scales and shifts of normalisation are left out, as in the released code; ``biases`` takes each such
vector as one row. The 1e-6 is the released code's.

DSA is DC on images that the loop has augmented: the two differ only in ``loop_defaults``. The loop also does the repeated
matching under one network and its training in between (``inner_loop`` and ``network_epochs``).

DCC (Lee et al., 2022) matches the gradients of all classes together, so that what tells classes apart takes part:

    loss = loss_scale * sum_layers sum_i  1 - <sum_k g_T,k[i], sum_k g_S,k[i]> / (... + 1e-6)

With equally many images of each class the sums are the gradients of the mean cross entropy of all images, times K, and the
cosine does not see the K. Its bi-level warm-up is not built; `--network-state trained:EPOCHS` starts from trained networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn import functional as F

from atom_plugin.errors import ConfigError
from atom_plugin.matchers import ClassRows, ImageMatcher, class_labels, class_rows, class_slices
from atom_plugin.matchers.distances import check_weights
from atom_plugin.models.features import widened
from atom_plugin.transforms.augmentation import DEFAULT_STRATEGY

_EPS = 1e-6
# bfloat16 keeps three digits: too few for the small differences of nearly parallel gradients.
_COMMON: dict[str, Any] = {"image_lr": 0.1, "precision": "float32", "network": {"normalisation": "instance"}}


@dataclass(frozen=True, kw_only=True)
class GradientMatching(ImageMatcher):
    """DC: layer-wise cosine distance of the gradients of networks, class by class."""

    loss_scale: float = 1.0
    biases: bool = False

    loop_defaults: ClassVar[Mapping[str, Any]] = {**_COMMON, "augmentation": "none"}

    def __post_init__(self) -> None:
        check_weights(self, "loss_scale")
        if not isinstance(self.biases, bool):
            raise ConfigError(f"biases must be true or false, not {self.biases!r}")

    @property
    def separates(self) -> bool:
        """True: each class has its own gradients."""
        return True

    def loss(
        self,
        network: nn.Module,
        real_images: torch.Tensor,
        synthetic_images: torch.Tensor,
        real_labels: torch.Tensor,
        synthetic_labels: torch.Tensor,
    ) -> torch.Tensor:
        """The sum of the distances of all classes; see :meth:`ImageMatcher.loss`.

        Raises ConfigError where the two sides differ in classes.
        """
        rows = class_rows(real_labels, synthetic_labels)
        return self._over_classes(network, (real_images, synthetic_images), (real_labels, synthetic_labels), rows)

    def grouped_loss(
        self,
        network: nn.Module,
        real_images: torch.Tensor,
        synthetic_images: torch.Tensor,
        *,
        groups: int,
        first_class: int = 0,
    ) -> torch.Tensor:
        """The loss of class-major images; see :meth:`ImageMatcher.grouped_loss`."""
        images = (real_images, synthetic_images)
        real, synthetic = (class_labels(len(side), groups, first_class, side.device) for side in images)
        return self._over_classes(
            network, images, (real, synthetic), class_slices(len(real_images), len(synthetic_images), groups)
        )

    def _matched(self, rows: Iterable[ClassRows]) -> Iterable[ClassRows]:
        """The rows whose gradients are compared, from ``rows`` of each class."""
        return rows

    def _over_classes(
        self,
        network: nn.Module,
        images: tuple[torch.Tensor, torch.Tensor],
        labels: tuple[torch.Tensor, torch.Tensor],
        rows: Iterable[ClassRows],
    ) -> torch.Tensor:
        """The sum over ``rows``; images and labels are the real ones, and the synthetic ones.

        Each class is computed separately and its second-order graph freed before the next: that takes the memory of one class,
        and on a CPU 0.4 of the time of all classes in one ``torch.func.vmap`` (3x32x32, width 128), whose weight gradients
        become grouped convolutions.
        """
        real_images, synthetic_images = images
        real_labels, synthetic_labels = labels
        weights = self._weights(network)
        gradient = torch.zeros_like(synthetic_images)
        total = torch.zeros((), device=synthetic_images.device)
        with torch.enable_grad():
            for theirs, own in self._matched(rows):
                leaf = synthetic_images.detach()[own].requires_grad_()
                target = _gradients(network, weights, real_images.detach()[theirs], real_labels[theirs])
                found = _gradients(network, weights, leaf, synthetic_labels[own], differentiable=True)
                distance = self.loss_scale * layer_distances(target, found)
                gradient[own] = torch.autograd.grad(distance, leaf)[0]
                total = total + distance.detach()
        result: torch.Tensor = _Known.apply(synthetic_images, total, gradient)
        return result

    def _weights(self, network: nn.Module) -> dict[str, torch.Tensor]:
        """Detached copies of the matched parameters, so that the network's own parameters get no gradient."""
        lowest = 1 if self.biases else 2
        chosen = {name: item for name, item in network.named_parameters() if item.ndim >= lowest}
        if not chosen:
            raise ConfigError("the network has no weights whose gradients could be matched")
        return {name: item.detach().requires_grad_() for name, item in chosen.items()}


@dataclass(frozen=True, kw_only=True)
class SiameseGradientMatching(GradientMatching):
    """DSA: DC with siamese augmentation of the real and the synthetic images."""

    loop_defaults: ClassVar[Mapping[str, Any]] = {**_COMMON, "augmentation": DEFAULT_STRATEGY}


@dataclass(frozen=True, kw_only=True)
class ContrastiveGradientMatching(GradientMatching):
    """DCC: distance of the gradients of all classes together."""

    @property
    def separates(self) -> bool:
        """False: a class's images change the gradients in which all others are compared."""
        return False

    def _matched(self, rows: Iterable[ClassRows]) -> Iterable[ClassRows]:
        """All rows of both sides at once; classes have equal weight if each side has equally many images of each."""
        list(rows)  # which checks the classes
        return [(slice(None), slice(None))]


def layer_distances(real: list[torch.Tensor], synthetic: list[torch.Tensor]) -> torch.Tensor:
    """The sum over layers and rows of the cosine distance of two lists of gradients."""
    total = torch.zeros((), device=real[0].device)
    for first, second in zip(real, synthetic, strict=True):
        a, b = (widened(item).flatten(1) if item.ndim > 1 else widened(item)[None] for item in (first, second))
        norms = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
        total = total + (1 - (a * b).sum(1) / (norms + _EPS)).sum()
    return total


def _gradients(
    network: nn.Module,
    weights: dict[str, torch.Tensor],
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    differentiable: bool = False,
) -> list[torch.Tensor]:
    """Gradients of the mean cross entropy; zeros for a weight that the forward pass does not use."""
    logits = functional_call(network, weights, (images,))
    loss = F.cross_entropy(widened(logits), labels)
    found = torch.autograd.grad(
        loss, list(weights.values()), create_graph=differentiable, allow_unused=True, materialize_grads=True
    )
    return list(found)


class _Known(torch.autograd.Function):
    """A value whose gradient with respect to the images has been computed already."""

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * slopes[0], None, None

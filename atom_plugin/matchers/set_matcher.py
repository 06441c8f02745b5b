"""Matchers of whole sets: the loss depends on all images, on their labels and on other learned values, under the loop's
network.

Feature and gradient matchers compare real and synthetic images of one class. The result of a network's training on the set, or
the prediction of a kernel regression on it, depends on all of its images and their labels. A :class:`SetMatcher` gets the whole
set, and defines the values that the loop optimises besides the images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from atom_plugin.errors import ConfigError
from atom_plugin.models.features import Features
from atom_plugin.models.network_pool import NetworkPool

LABELS, STEP_SIZES = "labels", "step sizes"
"""Names of learned values that a set stores: labels (N, classes) of its N images, and step sizes of a training on it."""


@dataclass(frozen=True, kw_only=True)
class Learned:
    """A value that the loop optimises besides the images: its initial value, and the learning rate of its SGD.

    Values stay at or above ``at_least``, if it is given.
    """

    start: torch.Tensor
    lr: float
    at_least: float | None = None


@dataclass(frozen=True, kw_only=True)
class SetStep:
    """The input of a :class:`SetMatcher` in one iteration.

    ``images`` are float32 (n, C, H, W), unpacked and preprocessed, class-major, with gradient; ``labels`` int64 (n,).
    ``learned`` holds the learned values, with gradient; ``carried`` the matcher's state, without gradient. ``network`` has the
    parameters that the loop drew for the iteration; a matcher may set others. ``real_images`` (m, C, H, W) and ``real_labels``
    (m,) are the iteration's real batch, not augmented. ``generator`` is on the CPU. ``augment`` augments images with a separate
    draw from a generator for each. ``pool`` holds the trained networks of the run, if there are any.
    """

    images: torch.Tensor
    labels: torch.Tensor
    learned: Mapping[str, torch.Tensor]
    carried: Mapping[str, torch.Tensor]
    network: nn.Module
    real_images: torch.Tensor
    real_labels: torch.Tensor
    generator: torch.Generator
    augment: Callable[[torch.Tensor, torch.Generator], torch.Tensor]
    pool: NetworkPool | None = None

    def per_image(self, value: torch.Tensor) -> torch.Tensor:
        """The rows of ``value`` (N, …) for stored images, repeated for ``images``: a packed image's tiles share its row."""
        return value.repeat_interleave(len(self.images) // len(value), dim=0, output_size=len(self.images))


class SetMatcher(ABC):
    """A matcher with a loss of the whole set. The loop minimises it over the images and over the :meth:`learned` values."""

    moves_images: ClassVar[bool] = True
    """Whether the images are optimised."""
    uses_trajectories: ClassVar[bool] = False
    """Whether the matcher needs a pool of networks that were saved at several ages."""
    label_kind: ClassVar[str] = "logits"
    """The kind of learned :data:`LABELS`: "logits", whose softmax is the target, or "scores", targets of a regression."""

    @property
    def separates(self) -> bool:
        """False: the loss depends on all classes together."""
        return False

    def learned(self, labels: torch.Tensor, classes: int) -> Mapping[str, Learned]:
        """The values that are optimised besides the images, by name; ``labels`` int64 (N,) are the classes of the stored
        images.
        """
        return {}

    def carried(self, network: nn.Module, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """The initial state that the matcher keeps from one iteration to the next; checkpoints store it."""
        return {}

    def check(self, network: nn.Module, pool: NetworkPool | None) -> None:
        """Raise ConfigError if a run with ``network`` and ``pool`` is impossible; called before the first step."""
        return

    @abstractmethod
    def loss(self, step: SetStep) -> torch.Tensor:
        """The scalar to be minimised."""

    def advance(self, step: SetStep) -> None:
        """Update the ``carried`` state in place, after the update of the images and learned values of ``step``."""
        return

    @abstractmethod
    def held_images(self, images: int, real: int) -> int:
        """The number of images whose maps are in memory at once, for a set of ``images`` and a batch of ``real`` images."""

    def __call__(self, real: Features, synthetic: Features) -> torch.Tensor:
        """Raises ConfigError, so that a loop that only knows features names the problem."""
        raise ConfigError(f"{type(self).__name__} needs the whole set, not features; call its loss(step)")

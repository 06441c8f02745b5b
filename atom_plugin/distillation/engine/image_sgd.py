"""The optimiser of the synthetic images: SGD with momentum, at a constant rate or a cosine schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from atom_plugin.models.fitting import sgd_step

SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True, kw_only=True)
class Rate:
    """The learning rate: ``lr``, or with the ``schedule`` "cosine" from it to 0 over ``iterations``."""

    lr: float
    schedule: str = "constant"
    iterations: int = 1

    def __call__(self, iteration: int) -> float:
        """The rate of ``iteration``, from 0."""
        if self.schedule == "constant":
            return self.lr
        return self.lr * 0.5 * (1 + math.cos(math.pi * iteration / self.iterations))


class ImageSGD:
    """Updates ``images`` (n, C, H, W), in place, as ``torch.optim.SGD`` does: v = m v + g, x = x - lr v.

    ``velocity`` is v, None before the first step. If images are pixels, ``pixel_std`` (C,) is the standard deviation by which
    preprocessing divides them: the rate is then that of standardised images (for pixels it is std^2 times as large), and images
    are clamped to [0, 1] after each step. ``still`` (n,) marks images that do not change.
    """

    def __init__(
        self,
        images: torch.Tensor,
        rate: Rate,
        *,
        momentum: float,
        pixel_std: torch.Tensor | None = None,
        still: torch.Tensor | None = None,
    ) -> None:
        self.images = images
        self.rate = rate
        self.momentum = momentum
        self.velocity: torch.Tensor | None = None
        self._still = None if still is None else still[:, None, None, None]
        self._scale = None if pixel_std is None else pixel_std.square().view(-1, 1, 1).to(images.device)

    def step(self, iteration: int, gradient: torch.Tensor) -> None:
        """Update the images with ``gradient``, of their shape."""
        self.move(gradient, self.rate(iteration))

    def started(self) -> torch.Tensor:
        """The velocity, zeros before the first step."""
        if self.velocity is None:
            self.velocity = torch.zeros_like(self.images)
        return self.velocity

    def move(self, gradient: torch.Tensor, lr: float | torch.Tensor) -> None:
        """As :meth:`step`, at the rate ``lr``: a number, or a tensor (1,) on the device, for a captured graph."""
        if self._still is not None:
            gradient = gradient.masked_fill(self._still, 0)  # so that their velocity stays 0, and x - lr 0 is x
        if self._scale is not None:
            gradient = gradient * self._scale
        sgd_step(self.images, gradient, self.started(), lr=lr, momentum=self.momentum)
        if self._scale is not None:
            self.images.clamp_(0, 1)

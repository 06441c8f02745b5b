"""What moves the synthetic images: SGD with momentum, at a rate that is constant or falls along a cosine."""

from __future__ import annotations

import math

import torch

from atom_plugin.models.fitting import sgd_step

SCHEDULES = ("constant", "cosine")


class ImageSGD:
    """Steps ``images`` (n, C, H, W), in place, as ``torch.optim.SGD`` does: v = m v + g, x = x - lr v.

    ``velocity`` is v, None before the first step. The rate is ``lr``, or falls from it to 0 over ``iterations`` by the
    ``schedule`` "cosine".
    """

    def __init__(
        self, images: torch.Tensor, *, lr: float, momentum: float, schedule: str = "constant", iterations: int
    ) -> None:
        self.images = images
        self.velocity: torch.Tensor | None = None
        self.momentum = momentum
        self._lr = lr
        self._schedule = schedule
        self._iterations = iterations

    def rate(self, iteration: int) -> float:
        """The learning rate of ``iteration``, from 0."""
        if self._schedule == "constant":
            return self._lr
        return self._lr * 0.5 * (1 + math.cos(math.pi * iteration / self._iterations))

    def step(self, iteration: int, gradient: torch.Tensor) -> None:
        """Move the images down ``gradient``, of their shape."""
        if self.velocity is None:
            self.velocity = torch.zeros_like(self.images)
        sgd_step(self.images, gradient, self.velocity, lr=self.rate(iteration), momentum=self.momentum)

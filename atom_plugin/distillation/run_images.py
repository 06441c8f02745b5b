"""The stored images of a run, for this process's classes: initial values, optimiser, and decoding."""

from __future__ import annotations

import torch

from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.engine.chunking import Chunks
from atom_plugin.distillation.engine.image_sgd import ImageSGD, Rate
from atom_plugin.distillation.growing import Growth
from atom_plugin.errors import DivergenceError
from atom_plugin.runtime import distributed
from atom_plugin.transforms.packing import unpack
from atom_plugin.transforms.preprocessing import Preprocessing

# Preprocessed pixels are of the order of 1. Normalisation makes the loss independent of their scale, so it stays finite.
_LARGEST_PIXEL = 1e6


class RunImages:
    """Images (own classes * ipc, C, H, W), float32 on ``device``: preprocessed, or in [0, 1] if they are stored as uint8.

    They start from this process's part of ``start``, the images of all classes (K * ipc, C, H, W).
    """

    def __init__(
        self,
        start: torch.Tensor,
        config: DistillConfig,
        preprocessing: Preprocessing,
        chunks: Chunks,
        device: torch.device,
        *,
        growth: Growth | None,
    ) -> None:
        self._config = config
        self._preprocessing = preprocessing.to(device)
        self._rows = chunks.images(config.ipc)
        self._device = device
        self._growth = growth
        self.optimizer = self._optimizer_of(start if growth is None else growth.start(start))

    @property
    def own(self) -> torch.Tensor:
        """The current images of this process's classes."""
        return self.optimizer.images

    @property
    def whole(self) -> torch.Tensor:
        """The images of all processes, (K * ipc, C, H, W)."""
        return self._gathered(self.own)

    @property
    def momentum(self) -> torch.Tensor | None:
        """The momentum of all images, None before the first step."""
        return None if self.optimizer.velocity is None else self._gathered(self.optimizer.velocity)

    def decode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (n, C, H, W), in the form of :attr:`own`, as networks see them: unpacked and preprocessed."""
        unpacked = unpack(images, self._config.factor)
        return self._preprocessing.forward(unpacked) if self._config.storage == "uint8" else unpacked

    def checked(self, iteration: int) -> torch.Tensor:
        """:attr:`whole`, checked. Images may diverge while the loss is finite; diverged images are neither saved nor returned.

        Raises DivergenceError for diverged images, naming the ``iteration``.
        """
        largest = distributed.highest(float(self.own.detach().abs().max()))
        if not largest <= _LARGEST_PIXEL:
            raise DivergenceError(
                f"the images diverged: their largest value is {largest:.3g} after iteration {iteration}; lower --image-lr (now "
                f"{self._config.image_lr:g}) or the matcher's loss scale"
            )
        return self.whole

    def restore(self, images: torch.Tensor, momentum: torch.Tensor | None) -> None:
        """Continue from the images and momentum of all processes."""
        self.optimizer = self._optimizer_of(images)
        self.optimizer.velocity = None if momentum is None else self._part(momentum)

    def _optimizer_of(self, images_of_all: torch.Tensor) -> ImageSGD:
        config = self._config
        rate = Rate(lr=config.image_lr, schedule=config.image_schedule, iterations=config.iterations)
        still = None if self._growth is None else self._growth.still()
        return ImageSGD(
            self._part(images_of_all),
            rate,
            momentum=config.image_momentum,
            pixel_std=self._preprocessing.std if config.storage == "uint8" else None,
            still=None if still is None else self._part(still),
        )

    def _part(self, whole: torch.Tensor) -> torch.Tensor:
        """This process's rows of the set's images, on the device."""
        rows = self._rows[distributed.rank()]
        return whole[rows.start : rows.stop].to(self._device).clone()

    def _gathered(self, part: torch.Tensor) -> torch.Tensor:
        """The inverse: the rows of all processes."""
        return distributed.gathered(part.detach(), self._rows)

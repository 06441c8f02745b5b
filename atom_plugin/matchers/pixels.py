"""Maximum mean discrepancy in pixel space: the baseline of DataDAM's table 11, "vanilla MMD", with a linear kernel there.

    loss = loss_scale * sum_k || E_T[x] - E_S[x] ||^2      for images x, preprocessed and augmented as the loop does

Other kernels as for the embedding (:mod:`.kernels`). No network is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from atom_plugin.matchers import ClassRows, ImageMatcher, class_rows, class_slices
from atom_plugin.matchers.distances import check_weights
from atom_plugin.matchers.kernels import Kernel, class_distance


@dataclass(frozen=True, kw_only=True)
class PixelMatching(ImageMatcher):
    """Vanilla MMD: the pixels of each class, without a network."""

    loss_scale: float = 1.0
    kernel: str = "linear"
    bandwidths: Sequence[float] | None = None

    uses_network: ClassVar[bool] = False

    # The linear loss's curvature is 2 / IPC per pixel, nine times that under the strongest contrast: 1 is too far a step.
    loop_defaults: ClassVar[Mapping[str, Any]] = {"image_lr": 0.1}

    def __post_init__(self) -> None:
        check_weights(self, "loss_scale")
        Kernel(self.kernel, self.bandwidths)

    @property
    def separates(self) -> bool:
        """Yes."""
        return True

    def loss(
        self,
        network: nn.Module,
        real_images: torch.Tensor,
        synthetic_images: torch.Tensor,
        real_labels: torch.Tensor,
        synthetic_labels: torch.Tensor,
    ) -> torch.Tensor:
        """The distance of the images of each class, summed over classes; see :meth:`ImageMatcher.loss`."""
        return self._over_classes(real_images, synthetic_images, class_rows(real_labels, synthetic_labels))

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
        rows = class_slices(len(real_images), len(synthetic_images), groups)
        return self._over_classes(real_images, synthetic_images, rows)

    def _over_classes(
        self, real_images: torch.Tensor, synthetic_images: torch.Tensor, rows: Iterable[ClassRows]
    ) -> torch.Tensor:
        kernel = Kernel(self.kernel, self.bandwidths)
        total = synthetic_images.new_zeros(())
        for theirs, own in rows:
            real, synthetic = real_images.detach()[theirs], synthetic_images[own]
            total = total + class_distance(kernel, real.flatten(1), synthetic.flatten(1), groups=1)
        return self.loss_scale * total

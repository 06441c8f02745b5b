"""Cross entropy of the synthetic images under a trained network, added to the matching loss (Zhang et al., "DANCE", 2024).

Matching of means lets images of a class drift across the borders to other classes; a network trained on the real images knows
these borders. DANCE takes a separate step for this loss; here the two losses are added, so that an iteration is one step.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from atom_plugin.models.convnet import ConvNet


class Calibration:
    """``weight`` times the mean cross entropy of all synthetic images of ``classes`` classes under ``network``.

    The parameters of ``network`` are set by the run, for each iteration, and ``share``, which multiplies the weight: 1, or the
    accuracy of the network (Zhao et al., "IDM", 2023).
    """

    def __init__(self, network: ConvNet, *, weight: float, classes: int) -> None:
        self.network = network
        self.share = 1.0
        self._weight = weight
        self._classes = classes

    def loss(self, images: torch.Tensor, *, groups: int, first_class: int = 0) -> torch.Tensor:
        """The loss's part of ``images`` (N, C, H, W), class-major over the ``groups`` classes from ``first_class`` on."""
        labels = torch.arange(first_class, first_class + groups, device=images.device)
        each = len(images) // groups
        logits = self.network(images.contiguous(memory_format=torch.channels_last)).float()
        total = F.cross_entropy(logits, labels.repeat_interleave(each, output_size=len(images)), reduction="sum")
        return self._weight * self.share * total / (self._classes * each)

"""Distribution matching (Zhao & Bilen, 2023): the mean embedding alone.

loss = loss_scale * sum_k || E_T[e] - E_S[e] ||^2      (eq. 5 with a linear kernel)

Another kernel compares the embeddings as distributions, not by their means alone (M3D; see :mod:`.kernels`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from atom_plugin.matchers import MeanMatcher, Statistics
from atom_plugin.matchers.distances import check_weights
from atom_plugin.matchers.kernels import Kernel


@dataclass(frozen=True, kw_only=True)
class DistributionMatching(MeanMatcher):
    """DM: mean embeddings only, no intermediate maps."""

    loss_scale: float = 1.0
    kernel: str = "linear"
    bandwidths: Sequence[float] | None = None

    def __post_init__(self) -> None:
        check_weights(self, "loss_scale")
        Kernel(self.kernel, self.bandwidths)

    @property
    def whole_embeddings(self) -> bool:
        """True for every kernel except the linear one."""
        return self.kernel != "linear"

    def matched_maps(self, count: int) -> int:
        """None of them."""
        return 0

    def describe_map(self, feature_map: torch.Tensor) -> Statistics:
        """Nothing: maps are not matched."""
        return ()

    def describe_embedding(self, embedding: torch.Tensor) -> Statistics:
        """The embedding itself, (N, D)."""
        return (embedding,)

    def compare(self, real: Statistics, synthetic: Statistics) -> torch.Tensor:
        """The distance of each class's embeddings, summed over classes."""
        return self.loss_scale * Kernel(self.kernel, self.bandwidths).distance(real[0], synthetic[0])

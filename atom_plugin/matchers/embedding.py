"""Distribution matching (Zhao & Bilen, 2023): the mean embedding alone.

loss = loss_scale * sum_k || E_T[e] - E_S[e] ||^2      (eq. 5 with a linear kernel)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from atom_plugin.errors import ConfigError
from atom_plugin.matchers import MeanMatcher, Statistics, squared_distance


@dataclass(frozen=True, kw_only=True)
class DistributionMatching(MeanMatcher):
    """DM: mean embeddings only, no intermediate maps."""

    loss_scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.loss_scale >= 0:
            raise ConfigError(f"loss_scale must be 0 or more, not {self.loss_scale}")

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
        """The squared distance of the class means, summed over classes."""
        return self.loss_scale * squared_distance(real[0], synthetic[0])

"""Feature-map transfer: whole intermediate maps instead of attention (ATOM's table 4, DataDAM's table 5).

    loss = loss_scale * (sum_k sum_{l < L} || E_T[g(f_l)] - E_S[g(f_l)] ||^2 + task_balance * L_MMD)

The papers print no formula for g. Here g divides the flattened map by its L2 norm, as the attention terms do, so that the
two compare at one learning rate; ``normalise=False`` matches raw maps (then lower ``loss_scale``: a raw map of 128 x 32 x
32 values has a squared norm of some 60,000).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from atom_plugin.matchers import MeanMatcher, Statistics, balanced, squared_distance
from atom_plugin.matchers.distances import check_weights
from atom_plugin.models.features import widened


@dataclass(frozen=True, kw_only=True)
class FeatureMapTransfer(MeanMatcher):
    """Feature-map transfer: the maps themselves, and the mean embedding."""

    normalise: bool = True
    task_balance: float = 0.01
    loss_scale: float = 100.0

    def __post_init__(self) -> None:
        check_weights(self, "task_balance", "loss_scale")

    def describe_map(self, feature_map: torch.Tensor) -> Statistics:
        """The flattened map, (N, C * H * W), in (H, W, C) order: the order of channels-last memory."""
        wide = widened(feature_map.permute(0, 2, 3, 1).flatten(1))
        return (F.normalize(wide, dim=1) if self.normalise else wide,)

    def describe_embedding(self, embedding: torch.Tensor) -> Statistics:
        """The embedding itself, (N, D)."""
        return (embedding,)

    def compare(self, real: Statistics, synthetic: Statistics) -> torch.Tensor:
        """Map terms plus the weighted embedding term."""
        *maps, embedding = (squared_distance(*pair) for pair in zip(real, synthetic, strict=True))
        return self.loss_scale * balanced(maps, embedding, self.task_balance)

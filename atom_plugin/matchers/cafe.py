"""CAFE (Wang et al., 2022): features aligned layer by layer, and real features that synthetic class centres classify.

    L_f  = sum_k sum_l || E_T[f_l] - E_S[f_l] ||^2                 every map, the last one too, and the embedding e
    L_d  = - sum_i log softmax_k(<e_i, c_k>)[y_i]                  real embeddings e_i, synthetic class means c_k
    loss = loss_scale * (map_weight * maps + embedding_weight * embedding + discrimination_weight * L_d)

The paper averages L_d over the real images; the released code sums, with a weight of 0.01, as here. That code weighs the four
parts of L_f 1, 1, 0.1 and 0.1, and adds a cross entropy that no synthetic image enters; both are left out. The paper's dynamic
bi-level loop is not part of the matcher: ``inner_loop`` and ``network_epochs`` train the network for a fixed number of steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from atom_plugin.matchers import MeanMatcher, Statistics, squared_distance
from atom_plugin.matchers.distances import check_weights
from atom_plugin.models.features import widened
from atom_plugin.runtime.device import full_precision


@dataclass(frozen=True, kw_only=True)
class Cafe(MeanMatcher):
    """CAFE: layer-wise feature alignment with its discrimination loss."""

    map_weight: float = 1.0
    embedding_weight: float = 1.0
    discrimination_weight: float = 0.01
    loss_scale: float = 1.0

    loop_defaults: ClassVar[Mapping[str, Any]] = {"image_lr": 0.1}

    def __post_init__(self) -> None:
        check_weights(self, "map_weight", "embedding_weight", "discrimination_weight", "loss_scale")

    @property
    def separates(self) -> bool:
        """True only without discrimination, which compares each image with the centres of all classes."""
        return not self.discrimination_weight

    @property
    def whole_embeddings(self) -> bool:
        """Always true: every real image is classified separately."""
        return True

    def matched_maps(self, count: int) -> int:
        """All of them."""
        return count

    def describe_map(self, feature_map: torch.Tensor) -> Statistics:
        """The flattened map, (N, C * H * W), in (H, W, C) order: the order of channels-last memory."""
        return (widened(feature_map.permute(0, 2, 3, 1).flatten(1)),)

    def describe_embedding(self, embedding: torch.Tensor) -> Statistics:
        """The embedding itself, (N, D)."""
        return (embedding,)

    def compare(self, real: Statistics, synthetic: Statistics) -> torch.Tensor:
        """Alignment of class means, and the cross entropy of the real embeddings (K, n, D)."""
        maps = [squared_distance(*pair) for pair in zip(real[:-1], synthetic[:-1], strict=True)]
        centres = synthetic[-1].mean(1)
        embedding = squared_distance(real[-1].mean(1), centres)
        with full_precision(centres.device):
            logits = real[-1].flatten(0, 1) @ centres.T
        labels = torch.arange(len(centres), device=centres.device).repeat_interleave(real[-1].shape[1])
        discrimination = F.cross_entropy(logits, labels, reduction="sum")
        aligned = self.map_weight * torch.stack(maps).sum() + self.embedding_weight * embedding
        return self.loss_scale * (aligned + self.discrimination_weight * discrimination)

"""ATOM (Khaki, Sajedi et al., 2024), its channel-only form, and DataDAM (Sajedi et al., 2023).

For a map f (C, H, W) of one image, eq. (1) and (2) of ATOM:

    A_s(f)[h, w] = sum_c |f[c, h, w]|^p_s        A_c(f)[c] = sum_{h, w} |f[c, h, w]|^p_c

Each is flattened to z and divided by its L2 norm. Eq. (3), with the class means over the real and the synthetic batch:

    L_att = sum_k sum_{l < L} || E_T[z / |z|] - E_S[z / |z|] ||^2      (spatial and channel terms add up)
    loss  = loss_scale * (L_att + task_balance * L_MMD),   L_MMD = sum_k || E_T[e] - E_S[e] ||^2  for the embedding e

Deviations: the papers print no ``loss_scale``; DataDAM's released code uses 100. With SGD on the images it acts as a
factor on the learning rate, so "as printed" is loss_scale 1 (recipes atom-paper and datadam-paper).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from atom_plugin.errors import ConfigError
from atom_plugin.matchers import MeanMatcher, Statistics, maps_and_embedding
from atom_plugin.matchers.power_sums import power_sums


@dataclass(frozen=True, kw_only=True)
class AttentionMatcher(MeanMatcher):
    """Spatial and channel attention with the mean embedding. A power of None leaves that attention out."""

    p_s: float | None = 4.0
    p_c: float | None = 4.0
    task_balance: float = 0.01
    loss_scale: float = 100.0

    def __post_init__(self) -> None:
        for name in ("p_s", "p_c"):
            power = getattr(self, name)
            if power is not None and not power >= 1:
                raise ConfigError(f"{name} must be at least 1, not {power}; the papers use 1, 2, 4 or 8")
        for name in ("task_balance", "loss_scale"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be 0 or more, not {getattr(self, name)}")

    def describe_map(self, feature_map: torch.Tensor) -> Statistics:
        """Normalised spatial attention (N, H * W) and channel attention (N, C), those whose power is given."""
        return tuple(F.normalize(sums, dim=1) for sums in power_sums(feature_map, self.p_s, self.p_c))

    def describe_embedding(self, embedding: torch.Tensor) -> Statistics:
        """The embedding itself, (N, D)."""
        return (embedding,)

    def compare(self, real: Statistics, synthetic: Statistics) -> torch.Tensor:
        """Eq. (4): attention terms plus the weighted embedding term."""
        return self.loss_scale * maps_and_embedding(real, synthetic, self.task_balance)


@dataclass(frozen=True, kw_only=True)
class Atom(AttentionMatcher):
    """ATOM: spatial and channel attention, and the mean embedding."""


@dataclass(frozen=True, kw_only=True)
class AtomChannel(AttentionMatcher):
    """ATOM with channel attention only: cheaper, nearly as good in the paper."""

    p_s: None = None


@dataclass(frozen=True, kw_only=True)
class DataDAM(AttentionMatcher):
    """DataDAM: spatial attention only, and the mean embedding."""

    p_c: None = None

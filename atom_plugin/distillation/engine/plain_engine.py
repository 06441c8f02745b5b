"""The engine for any network and any device, and the reference for the tests of the others."""

from __future__ import annotations

import torch
from torch import nn

from atom_plugin.matchers import MeanMatcher, Statistics
from atom_plugin.models.features import FeatureFunction


class PlainEngine:
    """Algorithm 1 of ATOM (Khaki et al., 2024) as printed: the features of a batch, and the matcher's class means of them."""

    def __init__(self, network: nn.Module, features: FeatureFunction) -> None:
        self.network = network
        self.features = features

    @torch.no_grad()
    def real(self, matcher: MeanMatcher, images: torch.Tensor, *, groups: int) -> Statistics:
        """See :class:`~atom_plugin.distillation.engine.Engine`."""
        return matcher.statistics(self.features(images, groups=groups))

    def synthetic(self, matcher: MeanMatcher, images: torch.Tensor, *, groups: int) -> Statistics:
        """See :class:`~atom_plugin.distillation.engine.Engine`."""
        return matcher.statistics(self.features(images, groups=groups))

"""ATOM on maps after their pooling, as the next block sees them: one row of the accuracy study."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from atom_plugin.matchers import MATCHERS, Statistics
from atom_plugin.matchers.attention import Atom


@dataclass(frozen=True, kw_only=True)
class AtomPooled(Atom):
    """The matchers of the package see a block's map before its pooling, as DataDAM's code does; the papers do not say."""

    def describe_map(self, feature_map: torch.Tensor) -> Statistics:
        return super().describe_map(F.avg_pool2d(feature_map, 2))


def register() -> None:
    """Make it a matcher of this process."""
    MATCHERS.register("atom-pooled", description="atom on maps after 2x2 average pooling")(AtomPooled)

"""A matcher: how much every channel varies over an image, beside the mean embedding."""

import torch

from atom_plugin.errors import ConfigError
from atom_plugin.matchers import MeanMatcher, Statistics, squared_distance


class Contrast(MeanMatcher):
    """Standard deviation of every channel over an image, and the mean embedding."""

    def __init__(self, balance: float = 0.1, loss_scale: float = 10.0) -> None:
        if not balance >= 0:
            raise ConfigError(f"balance must be 0 or more, not {balance}")
        self.balance = balance
        self.loss_scale = loss_scale

    def describe_map(self, feature_map: torch.Tensor) -> Statistics:
        """(N, C, H, W) to (N, C). The small constant keeps the gradient finite where a channel is dead."""
        return ((feature_map.flatten(2).var(dim=2) + 1e-6).sqrt(),)

    def describe_embedding(self, embedding: torch.Tensor) -> Statistics:
        """The embedding itself, (N, D)."""
        return (embedding,)

    def compare(self, real: Statistics, synthetic: Statistics) -> torch.Tensor:
        """Squared distances of the class means, summed."""
        *maps, embedding = map(squared_distance, real, synthetic)
        return self.loss_scale * sum(maps, self.balance * embedding)

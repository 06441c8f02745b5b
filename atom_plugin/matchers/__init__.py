"""Matchers: how real and synthetic images are compared, through the features of a network.

A matcher is any callable ``(real: Features, synthetic: Features) -> scalar tensor`` whose gradient reaches the synthetic
images. One whose real side reduces to class means of per-image descriptors derives from :class:`MeanMatcher`: the loop
then streams the real batch through the network and never holds a full real feature map.

Register one by the entry-point group ``atom_plugin.matchers`` or by ``@MATCHERS.register("name")``. What is registered is
a factory (usually the class) whose keyword arguments are the matcher's options.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from atom_plugin.errors import ConfigError
from atom_plugin.features import Features
from atom_plugin.registry import Registry

Statistics = tuple[torch.Tensor, ...]
"""Class means of descriptors: tensors (K, D_i), those of each map in order, then those of the embedding."""


class Matcher(Protocol):
    """Compares two grouped feature lists; returns a scalar to be minimised over the synthetic images."""

    def __call__(self, real: Features, synthetic: Features) -> torch.Tensor:
        """The loss. ``real`` carries no gradient."""


MATCHERS: Registry[Callable[..., Matcher]] = Registry("matcher", "atom_plugin.matchers")


class MeanMatcher(ABC):
    """A matcher that compares class means of per-image descriptors.

    Every loss here is ``scale * sum_i weight_i * sum_k || mean_real(d_i) - mean_synthetic(d_i) ||^2`` over classes k and
    descriptors d_i. A subclass says what an image's descriptors are and how its terms weigh; means over a batch are sums
    over chunks, so the real side can be streamed.
    """

    @abstractmethod
    def describe_map(self, feature_map: torch.Tensor) -> Statistics:
        """Descriptors (N, D_i) of one map (N, C, H, W). May be empty: then maps are not even computed on."""

    @abstractmethod
    def describe_embedding(self, embedding: torch.Tensor) -> Statistics:
        """Descriptors (N, D_i) of the embedding (N, D)."""

    @abstractmethod
    def compare(self, real: Statistics, synthetic: Statistics) -> torch.Tensor:
        """The loss between two lists of class means (K, D_i), as :meth:`statistics` gives them."""

    def matched_maps(self, count: int) -> int:
        """How many of ``count`` maps are matched, from the input side: all but the last (l = 1 … L-1)."""
        return count - 1

    def statistics(self, features: Features) -> Statistics:
        """Class means of all descriptors, with gradient where the features carry one."""
        matched = features.maps[: self.matched_maps(len(features.maps))]
        described = [descriptor for feature_map in matched for descriptor in self.describe_map(feature_map)]
        described += self.describe_embedding(features.embedding)
        return tuple(group_means(descriptor, features.groups) for descriptor in described)

    def __call__(self, real: Features, synthetic: Features) -> torch.Tensor:
        """The loss. Raises ConfigError where the two sides differ in classes or shapes."""
        with torch.no_grad():
            target = self.statistics(real)
        return self.compare(target, self.statistics(synthetic))


def group_means(descriptor: torch.Tensor, groups: int) -> torch.Tensor:
    """(N, D), class-major over ``groups`` classes, to float32 (or float64) class means (groups, D)."""
    return widened(descriptor).view(groups, -1, descriptor.shape[1]).mean(1)


def widened(values: torch.Tensor) -> torch.Tensor:
    """What reductions run in: float32, or float64 where that is given."""
    return values if values.dtype == torch.float64 else values.float()


def maps_and_embedding(real: Statistics, synthetic: Statistics, task_balance: float) -> torch.Tensor:
    """The distances of all map descriptors, and that of the embedding, the last of the statistics, times the balance."""
    distances = [squared_distance(*pair) for pair in zip(real, synthetic, strict=True)]
    maps = torch.stack(distances[:-1]).sum() if len(distances) > 1 else distances[-1].new_zeros(())
    return maps + task_balance * distances[-1]


def squared_distance(real: torch.Tensor, synthetic: torch.Tensor) -> torch.Tensor:
    """Sum of squared differences of two (K, D) tensors. Raises ConfigError where their shapes differ."""
    if real.shape != synthetic.shape:
        raise ConfigError(
            f"real class means have shape {tuple(real.shape)}, synthetic ones {tuple(synthetic.shape)}; give both sides "
            "the same classes, image size and network"
        )
    return (real - synthetic).square().sum()


def make_matcher(name: str, options: Mapping[str, Any] | None = None) -> Matcher:
    """Build the matcher ``name`` with its options.

    Raises PluginError for an unknown name and ConfigError for an option it does not take.
    """
    factory, given = MATCHERS.get(name), dict(options or {})
    try:
        inspect.signature(factory).bind(**given)
    except TypeError as error:
        taken = ", ".join(matcher_options(name)) or "none"
        raise ConfigError(f"matcher {name!r}: {error}; it takes the options {taken}") from None
    try:
        return factory(**given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"matcher {name!r} does not accept {given}: {error}; check the options' types") from error


def matcher_options(name: str) -> dict[str, Any]:
    """The options of the matcher ``name`` with their defaults."""
    parameters = inspect.signature(MATCHERS.get(name)).parameters.values()
    return {item.name: item.default for item in parameters if item.default is not inspect.Parameter.empty}

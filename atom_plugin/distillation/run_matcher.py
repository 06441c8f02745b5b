"""The matcher of a run, wrapped for nested sets, and warnings before the first step."""

from __future__ import annotations

import logging

from torch import nn

from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.growing import Growth
from atom_plugin.distillation.matching_network import refuse_unmatched
from atom_plugin.distillation.representatives import refuse_clusters
from atom_plugin.matchers import Matcher, MeanMatcher, make_matcher
from atom_plugin.matchers.nested import NestedMatcher
from atom_plugin.models.batchnorm import ties_images

# Below so many images, moments of a synthetic batch mislead: at 10 the ConvNet itself collapses (docs/notes/recipes.md).
_FEW_IMAGES = 32
_logger = logging.getLogger("atom_plugin")


def matcher_of(config: DistillConfig, growth: Growth | None) -> Matcher:
    """The matcher that ``config`` names, on every prefix if nested. Raises ConfigError for choices that do not fit it."""
    matcher: Matcher = make_matcher(config.matcher, config.matcher_options)
    weights = config.prefix_weights
    if growth is not None:
        weights = growth.matched(weights)
    if weights:
        matcher = NestedMatcher(matcher, [count * config.tiles for count in weights], list(weights.values()))
    refuse_unmatched(config, matcher)
    if config.cluster_every is not None:
        refuse_clusters(config, matcher)
    return matcher


def warn_of_few_images(matcher: Matcher, network: nn.Module, count: int) -> None:
    """Warn if batch normalisation computes its moments from too few synthetic images."""
    if isinstance(matcher, MeanMatcher) and ties_images(network) and count < _FEW_IMAGES:
        _logger.warning(
            "batch normalisation computes its moments from %d synthetic images: users of DM saw results below "
            "random selection with so few; --normalisation instance, or a matching model that has it, avoids that",
            count,
        )

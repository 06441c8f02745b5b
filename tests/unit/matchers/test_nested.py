"""Losses of prefixes against losses taken one by one, in float64."""

import pytest
import torch

from atom_plugin.errors import ConfigError
from atom_plugin.matchers import MATCHERS, MeanMatcher, make_matcher
from atom_plugin.matchers.nested import NestedMatcher
from atom_plugin.models.features import Features

MEAN_MATCHERS = ["atom", "atom-channel", "datadam", "dm", "feature"]


def features(count, groups=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    maps = tuple(
        torch.randn(groups * count, 4, side, side, generator=generator, dtype=torch.float64).requires_grad_()
        for side in (6, 3)
    )
    embedding = torch.randn(groups * count, 5, generator=generator, dtype=torch.float64).requires_grad_()
    return Features(maps=maps, embedding=embedding, groups=groups)


def first(held, count):
    """The features of the first ``count`` images of each class."""
    cut = lambda item: item.unflatten(0, (held.groups, -1))[:, :count].flatten(0, 1)  # noqa: E731
    return Features(maps=tuple(map(cut, held.maps)), embedding=cut(held.embedding), groups=held.groups)


def test_every_matcher_of_class_means_is_tried():
    known = {
        name
        for name in MATCHERS.names()
        if isinstance(matcher := make_matcher(name), MeanMatcher) and not matcher.whole_embeddings
    }
    assert known == set(MEAN_MATCHERS)


@pytest.mark.parametrize("name", MEAN_MATCHERS)
@pytest.mark.parametrize("prefixes", [(1, 2, 5), (5,), (1, 2, 3, 4, 5), (4,)])
def test_the_loss_is_the_weighted_sum_of_the_prefixes_and_so_is_its_gradient(name, prefixes):
    matcher, real, synthetic = make_matcher(name), features(7, seed=1), features(5)
    weights = [1 / (2 + row) for row in range(len(prefixes))]
    nested = NestedMatcher(matcher, prefixes, weights)
    with torch.no_grad():
        target = matcher.statistics(real)
    loss = nested.compare(target, nested.statistics(synthetic))
    expected = sum(
        weight * matcher.compare(target, matcher.statistics(first(synthetic, count)))
        for weight, count in zip(weights, prefixes, strict=True)
    )
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    leaves = [*synthetic.maps, synthetic.embedding]
    ours, theirs = (
        torch.autograd.grad(value, leaves, allow_unused=True, retain_graph=True) for value in (loss, expected)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "matcher", [make_matcher("cafe"), make_matcher("dc"), make_matcher("dm", {"kernel": "gaussian"})]
)
def test_matchers_that_compare_more_than_class_means_are_refused(matcher):
    with pytest.raises(ConfigError, match="more than class means"):
        NestedMatcher(matcher, (1, 2), (0.5, 0.5))

"""Losses of prefixes against losses taken one by one, in float64."""

import pytest
import torch

from atom_plugin.distillation.engine.cuda_engine import CudaEngine
from atom_plugin.distillation.engine.plain_engine import PlainEngine
from atom_plugin.errors import ConfigError
from atom_plugin.matchers import MATCHERS, MeanMatcher, make_matcher
from atom_plugin.matchers.nested import NestedMatcher
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.models.features import Features
from atom_plugin.transforms.packing import unpack

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


@pytest.mark.parametrize("name", MEAN_MATCHERS)
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("kind", [PlainEngine, CudaEngine])
def test_under_a_network_packed_or_not_each_prefix_counts_as_if_it_were_alone(name, groups, factor, kind):
    generator = torch.Generator().manual_seed(3)
    config = ConvNetConfig(width=6, depth=2, normalisation="instance")
    network = config.build((3, 8, 8), groups, generator=generator).double().requires_grad_(False)
    engine = kind(network) if kind is CudaEngine else PlainEngine(network, network.features)
    matcher, weights, tiles = make_matcher(name), {1: 0.5, 2: 0.2, 4: 0.3}, factor**2
    real = torch.randn(groups * 6, 3, 8, 8, generator=generator, dtype=torch.float64)
    images = torch.randn(groups, 4, 3, 8, 8, generator=generator, dtype=torch.float64).requires_grad_()
    nested = NestedMatcher(matcher, [count * tiles for count in weights], list(weights.values()))
    target = engine.real(nested.real_side, real, groups=groups)

    def loss(comparing, count):
        seen = unpack(images[:, :count].flatten(0, 1), factor)
        return comparing.compare(target, engine.synthetic(comparing, seen, groups=groups))

    ours = loss(nested, 4)
    literal = sum(weight * loss(matcher, count) for count, weight in weights.items())
    torch.testing.assert_close(ours, literal, rtol=1e-12, atol=1e-14)
    gradients = [torch.autograd.grad(value, images)[0] for value in (ours, literal)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
    assert gradients[0].abs().max() > 1e-9


@pytest.mark.parametrize(
    "matcher", [make_matcher("cafe"), make_matcher("dc"), make_matcher("dm", {"kernel": "gaussian"})]
)
def test_matchers_that_compare_more_than_class_means_are_refused(matcher):
    with pytest.raises(ConfigError, match="more than class means"):
        NestedMatcher(matcher, (1, 2), (0.5, 0.5))

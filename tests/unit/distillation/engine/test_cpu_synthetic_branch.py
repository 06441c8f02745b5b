import itertools

import pytest
import torch

from atom_plugin.distillation.engine.cpu_synthetic_branch import tracked_statistics
from atom_plugin.matchers import make_matcher
from atom_plugin.models.convnet import ACTIVATIONS, NORMALISATIONS, ConvNetConfig
from atom_plugin.runtime.randomness import generator_for


def compared(config, matcher, per_piece, dtype=torch.float64):
    """Statistics and gradient of both paths, for a random loss on the statistics."""
    network = config.build((3, 8, 8), classes=3, generator=generator_for(0, "network")).to(dtype)
    network.requires_grad_(False)
    affine = generator_for(0, "affine")
    for norm in (module for block in network.blocks for module in [block.normalisation] if hasattr(module, "eps")):
        norm.weight.uniform_(0.5, 2.0, generator=affine)
        norm.bias.normal_(generator=affine)
    given = torch.randn(9, 3, 8, 8, generator=generator_for(0, "images"), dtype=dtype) * 2 + 1
    weigh = generator_for(0, "weights")
    weights: list[torch.Tensor] = []
    results = []
    for path in (lambda x: matcher.statistics(network.features(x, groups=3)), None):
        images = given.clone().requires_grad_()
        piece_bytes = per_piece * 8 * 8 * config.width * images.element_size()
        statistics = (
            path(images) if path else tracked_statistics(network, matcher, images, groups=3, piece_bytes=piece_bytes)
        )
        weights = weights or [torch.randn(s.shape, generator=weigh, dtype=dtype) for s in statistics]
        loss = sum((w * s).sum() for w, s in zip(weights, statistics, strict=True))
        results.append((statistics, torch.autograd.grad(loss, images)[0]))
    return results


@pytest.mark.parametrize(("normalisation", "activation"), list(itertools.product(NORMALISATIONS, ["relu", "swish"])))
@pytest.mark.parametrize("per_piece", [1, 4, 100])
def test_statistics_and_gradient_are_autograds(normalisation, activation, per_piece):
    config = ConvNetConfig(depth=3, width=8, normalisation=normalisation, activation=activation)
    plain, tracked = compared(config, make_matcher("atom"), per_piece)
    torch.testing.assert_close(tracked[0], plain[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(tracked[1], plain[1], rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("matcher", ["atom-channel", "datadam", "dm", "feature"])
@pytest.mark.parametrize("pooling", ["none", "max", "avg"])
def test_every_matcher_and_pooling(matcher, pooling):
    config = ConvNetConfig(depth=2, width=4, normalisation="batch", pooling=pooling)
    plain, tracked = compared(config, make_matcher(matcher), 2)
    torch.testing.assert_close(tracked, plain, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_activation_in_float32(activation):
    config = ConvNetConfig(depth=2, width=8, normalisation="batch", activation=activation)
    plain, tracked = compared(config, make_matcher("atom"), 4, torch.float32)
    torch.testing.assert_close(tracked, plain, rtol=1e-3, atol=1e-4)

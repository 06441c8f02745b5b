import itertools

import pytest
import torch
from torch import nn

from atom_plugin.errors import ConfigError
from atom_plugin.models import convnet, convnet_choices
from atom_plugin.models.convnet import ConvNetConfig, InstanceNorm, default_depth
from atom_plugin.models.convnet_choices import ACTIVATIONS, NORMALISATIONS, POOLINGS
from atom_plugin.models.features import FeatureExtractor
from atom_plugin.runtime.randomness import generator_for


@pytest.mark.parametrize(("size", "depth"), [(8, 2), (16, 2), (28, 3), (32, 3), (64, 4), (96, 5), (128, 5), (224, 6)])
def test_depth_follows_the_image_size(size, depth):
    assert default_depth(size) == depth


@pytest.mark.parametrize(
    ("activation", "normalisation", "pooling"), list(itertools.product(ACTIVATIONS, NORMALISATIONS, POOLINGS))
)
def test_every_member_runs_forward_and_backward(activation, normalisation, pooling):
    config = ConvNetConfig(depth=2, width=8, activation=activation, normalisation=normalisation, pooling=pooling)
    network = config.build((3, 12, 8), classes=4)
    images = torch.randn(6, 3, 12, 8, generator=torch.Generator().manual_seed(0))
    logits = network(images)
    assert logits.shape == (6, 4)
    logits.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    features = network.features(images, groups=2)
    assert [tuple(m.shape[1:]) for m in features.maps] == (
        [(8, 12, 8)] * 2 if pooling == "none" else [(8, 12, 8), (8, 6, 4)]
    )
    torch.testing.assert_close(network.classifier(features.embedding), logits)


@pytest.mark.parametrize("size", [7, 8, 9, 32])
def test_three_pixel_pooling_halves_rounding_up(size):
    network = ConvNetConfig(depth=2, width=4, pool_size=3).build((1, size, size), classes=2)
    assert network(torch.zeros(2, 1, size, size)).shape == (2, 2)


@pytest.mark.parametrize("size", [4, 16, 32])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_instance_normalisation_is_torchs(size, layout):
    ours, theirs = InstanceNorm(6).double(), nn.GroupNorm(6, 6).double()
    for parameter in (ours.weight, ours.bias):
        nn.init.normal_(parameter, generator=generator_for(0, parameter.shape[0]))
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(5, 6, size, size, generator=generator_for(0, "images"), dtype=torch.float64)
    images = (images + 3).contiguous(memory_format=layout).requires_grad_()
    torch.testing.assert_close(ours(images), theirs(images))
    weights = torch.randn(images.shape, generator=generator_for(0, "weights"), dtype=torch.float64)
    gradients = [torch.autograd.grad((norm(images) * weights).sum(), images)[0] for norm in (ours, theirs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("weight_init", ["uniform", "normal"])
def test_reset_draws_anew_and_repeats_by_seed(weight_init):
    network = ConvNetConfig(width=64, weight_init=weight_init).build((3, 32, 32), classes=10)
    network.reset(generator_for(0, "iteration", 0))
    first = [p.detach().clone() for p in network.parameters()]
    network.reset(generator_for(0, "iteration", 1))
    assert not torch.equal(first[0], network.blocks[0].convolution.weight)
    network.reset(generator_for(0, "iteration", 0))
    assert all(torch.equal(a, b) for a, b in zip(first, network.parameters(), strict=True))
    weight = network.blocks[1].convolution.weight
    fan_in = 64 * 9
    expected = (2 / fan_in) ** 0.5 if weight_init == "normal" else (1 / fan_in) ** 0.5 / 3**0.5
    assert weight.std().item() == pytest.approx(expected, rel=0.02)


def test_reset_has_pytorchs_own_spread():
    network = ConvNetConfig(width=64).build((3, 32, 32), classes=10)
    network.reset(generator_for(0, "x"))
    torch.manual_seed(0)  # only torch's own initialiser listens to it
    own = nn.Conv2d(64, 64, 3)
    ours = network.blocks[1].convolution
    assert ours.weight.abs().max().item() == pytest.approx(own.weight.abs().max().item(), rel=0.01)
    assert ours.bias.abs().max().item() == pytest.approx(own.bias.abs().max().item(), rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "gelu"}, "activation must be one of"),
        ({"normalisation": "rms"}, "normalisation must be one of"),
        ({"pooling": "sum"}, "pooling must be one of"),
        ({"pool_size": 4}, "pool_size must be one of"),
        ({"weight_init": "zero"}, "weight_init must be one of"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"width": 6, "normalisation": "group"}, "multiple of 4"),
    ],
)
def test_impossible_networks_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ConvNetConfig(**options)


def test_too_much_pooling_is_refused():
    with pytest.raises(ConfigError, match="lower the depth"):
        ConvNetConfig(depth=4).build((1, 8, 8), classes=2)


def test_extractor_sees_what_the_network_computes():
    network = ConvNetConfig(depth=2, width=4, activation="swish").build((1, 8, 8), classes=3)
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    own = network.features(images, groups=2)
    with FeatureExtractor(
        network, maps=["blocks.0.activation", "blocks.1.activation"], embedding="classifier"
    ) as extract:
        seen = extract(images, groups=2)
        torch.testing.assert_close(seen.maps, own.maps)
        torch.testing.assert_close(seen.embedding, network(images))
    assert not network.classifier._forward_hooks


def test_extractor_names_missing_and_unused_layers():
    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Identity(), nn.Identity()

        def forward(self, images):
            return self.used(images)

    network = Skips()
    with pytest.raises(ConfigError, match="no layer 'nothing'; its layers: used, idle"):
        FeatureExtractor(network, maps=["nothing"], embedding="used")
    with (
        FeatureExtractor(network, maps=["idle"], embedding="used") as extract,
        pytest.raises(ConfigError, match="idle"),
    ):
        extract(torch.zeros(1, 1, 2, 2))


def test_every_choice_can_be_built_and_no_other():
    assert list(convnet.ACTIVATIONS) == list(convnet_choices.ACTIVATIONS)
    assert list(convnet.NORMALISATIONS) == list(convnet_choices.NORMALISATIONS)


def test_stored_choices_are_read_under_their_former_names_and_newer_ones_are_refused():
    stored = {"depth": 2, "width": 8, "initialisation": "normal"}
    assert ConvNetConfig.from_json(stored) == ConvNetConfig(depth=2, width=8, weight_init="normal")
    with pytest.raises(ConfigError, match=r"colour.*update"):
        ConvNetConfig.from_json({"colour": "red"})


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ({"depth": 10**6, "pooling": "none"}, "depth must be at least 1 and at most 64, not 1000000"),
        ({"width": 10**9}, "width must be at least 1 and at most 16,384"),
        ({"depth": 10**400}, "depth must be .* not a number of 1329 bits"),
    ],
)
def test_a_network_that_nothing_can_hold_is_refused_when_it_is_named(network, words):
    with pytest.raises(ConfigError, match=words):
        ConvNetConfig.from_json(network)


def test_a_network_larger_than_the_machine_is_refused_before_it_is_made(monkeypatch):
    config = ConvNetConfig(width=16, depth=2)
    config.build((3, 8, 8), 10)
    monkeypatch.setattr(convnet, "machine_memory", lambda: 30_000)
    with pytest.raises(
        ConfigError, match=r"width 16 and depth 2 has 3,\d+ weights, more than this machine.*lower the width"
    ):
        config.build((3, 8, 8), 10)

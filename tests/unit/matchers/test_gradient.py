"""DC and DSA against a slow, literal transcription of the equation, in float64."""

import copy
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from small import coloured_source, small_config
from torch import nn
from torch.nn import functional as F

from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.distiller import Distiller
from atom_plugin.distillation.engine.plain_engine import PlainEngine
from atom_plugin.distillation.engine.step import compare
from atom_plugin.errors import ConfigError
from atom_plugin.matchers import MATCHERS, ImageMatcher, make_matcher
from atom_plugin.matchers.pixels import PixelMatching
from atom_plugin.models.batchnorm import fixed_batch_normalisation
from atom_plugin.models.convnet import NORMALISATIONS, ConvNetConfig
from atom_plugin.models.features import Features
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.transforms.augmentation import DEFAULT_STRATEGY


def network(normalisation: str = "instance") -> nn.Module:
    config = ConvNetConfig(depth=2, width=4, normalisation=normalisation, activation="swish")
    return config.build((2, 8, 8), 3, generator=generator_for(0, "network")).double().requires_grad_(False)


def images(count: int, purpose: str) -> torch.Tensor:
    return torch.randn(count, 2, 8, 8, generator=generator_for(0, purpose), dtype=torch.float64)


def oracle(net, real, synthetic, real_labels, synthetic_labels, *, biases=False):
    """Class by class, layer by layer, output row by output row; the derivative by torch's own double backward."""
    net = copy.deepcopy(net).requires_grad_(True)
    parameters = list(net.parameters())
    total = 0.0
    for k in range(3):
        gradients = []
        for batch, labels in ((real, real_labels), (synthetic, synthetic_labels)):
            own = batch[labels == k]
            logits = net(own)
            losses = [logits[i].exp().sum().log() - logits[i, k] for i in range(len(own))]
            gradients.append(torch.autograd.grad(sum(losses) / len(own), parameters, create_graph=True))
        for g_real, g_synthetic in zip(*gradients, strict=True):
            if g_real.ndim == 1:
                rows = [(g_real, g_synthetic)] if biases else []
            else:
                rows = [(g_real[i].flatten(), g_synthetic[i].flatten()) for i in range(len(g_real))]
            for a, b in rows:
                length = (a * a).sum() ** 0.5 * (b * b).sum() ** 0.5
                total = total + 1 - (a * b).sum() / (length + 1e-6)
    return total


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("normalisation", ["instance", "none", "layer"])
@pytest.mark.parametrize("name", ["dc", "dsa"])
def test_loss_and_gradient_equal_the_equation(name, normalisation, biases):
    net = network(normalisation)
    real, synthetic = images(9, "real"), images(6, "synthetic").requires_grad_()
    # In any order, and the classes of unequal size: a host's loop need not be class-major.
    real_labels, synthetic_labels = torch.tensor([2, 0, 1, 0, 0, 2, 1, 1, 0]), torch.tensor([0, 1, 2, 2, 1, 2])
    matcher = make_matcher(name, {"biases": biases, "loss_scale": 3.0})
    assert isinstance(matcher, ImageMatcher)
    loss = matcher.loss(net, real, synthetic, real_labels, synthetic_labels)
    expected = 3.0 * oracle(net, real, synthetic, real_labels, synthetic_labels, biases=biases)
    torch.testing.assert_close(loss, expected.to(loss.dtype), rtol=1e-9, atol=0, check_dtype=False)
    (mine,) = torch.autograd.grad(loss, synthetic)
    (theirs,) = torch.autograd.grad(expected, synthetic)
    torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-9)


def test_the_network_is_left_as_it_was_and_asks_for_nothing():
    net = network("batch")
    net.train()
    state = copy.deepcopy(net.state_dict())
    labels = torch.arange(3)
    synthetic = images(3, "synthetic").requires_grad_()
    with fixed_batch_normalisation(net, images(9, "real")):
        inside = copy.deepcopy(net.state_dict())
        make_matcher("dc").loss(net, images(9, "real"), synthetic, labels.repeat_interleave(3), labels).backward()
        assert all(torch.equal(value, inside[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in net.parameters())
    assert all(torch.equal(p, state[name]) for name, p in net.named_parameters())
    assert net.training and all(module.training for module in net.modules())
    assert synthetic.grad is not None


def test_fixed_batch_normalisation_uses_the_moments_of_all_classes():
    net = network("batch").train()
    batch = images(12, "real")
    norm = net.blocks[0].normalisation
    output = net.blocks[0].convolution(batch)
    with fixed_batch_normalisation(net, batch):
        assert not norm.training
        ours = norm(output[:1])
    mean, variance = output.mean((0, 2, 3), keepdim=True), output.var((0, 2, 3), keepdim=True)
    torch.testing.assert_close(ours, (output[:1] - mean) / (variance + norm.eps).sqrt())


def test_a_foreign_network_whose_parameters_train_will_do():
    class Foreign(nn.Sequential):
        def forward(self, images):  # the last layer takes no part
            return nn.Sequential(*list(self)[:4])(images)

    net = Foreign(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 3), nn.Linear(2, 2)).double()
    synthetic = images(3, "synthetic").requires_grad_()
    labels = torch.arange(3)
    loss = make_matcher("dc").loss(net, images(3, "real"), synthetic, labels, labels)
    loss.backward()
    assert float(loss.detach()) > 1
    assert float(synthetic.grad.abs().max()) > 0
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_one_class_at_a_time_adds_up_to_all_at_once():
    """How DatasetCondensation-style loops call it: labels say which output a class's images belong to."""
    net, real, synthetic = network(), images(9, "real"), images(6, "synthetic")
    dc = make_matcher("dc")
    whole = dc.loss(net, real, synthetic, torch.arange(3).repeat_interleave(3), torch.arange(3).repeat_interleave(2))
    parts = [
        dc.loss(net, real[3 * k : 3 * k + 3], synthetic[2 * k : 2 * k + 2], torch.full((3,), k), torch.full((2,), k))
        for k in range(3)
    ]
    torch.testing.assert_close(whole, sum(parts))


def test_equal_gradients_cost_next_to_nothing_and_no_gradient_is_asked_where_none_is_wanted():
    net, same, labels = network(), images(6, "real"), torch.arange(3).repeat_interleave(2)
    loss = make_matcher("dc").loss(net, same, same.clone(), labels, labels)
    assert not loss.requires_grad
    rows = 4 + 4 + 3
    assert 0 <= float(loss) < 0.1 * 3 * rows


def test_different_classes_are_refused():
    with pytest.raises(ConfigError, match=r"real images are of the classes 0, 1, synthetic ones of 0, 2"):
        make_matcher("dc").loss(
            network(), images(2, "real"), images(2, "synthetic"), torch.tensor([0, 1]), torch.tensor([0, 2])
        )


def test_a_network_without_weights_is_refused():
    labels = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ConfigError, match="no weights whose gradients"):
        make_matcher("dc").loss(nn.Flatten(), images(1, "real"), images(1, "synthetic"), labels, labels)


@pytest.mark.parametrize("name", ["dc", "dsa", "mmd-pixel"])
def test_features_alone_do_not_do(name):
    nothing = Features(maps=(), embedding=torch.zeros(2, 1), groups=2)
    with pytest.raises(ConfigError, match=r"not features; call its loss\(network, real_images"):
        make_matcher(name)(nothing, nothing)


@pytest.mark.parametrize("normalisation", sorted(NORMALISATIONS))
def test_the_loop_hands_over_network_images_and_labels(normalisation):
    """One step of the loop's comparison is the matcher's own loss on the images in order of class."""
    net = (
        ConvNetConfig(depth=2, width=4, normalisation=normalisation).build((2, 8, 8), 3).double().requires_grad_(False)
    )
    real, synthetic = images(12, "real"), images(6, "synthetic")
    labels = torch.arange(3)
    ours = compare(make_matcher("dc"), PlainEngine(net, net.features), real, synthetic, groups=3)
    with fixed_batch_normalisation(net, real):
        plain = make_matcher("dc").loss(net, real, synthetic, labels.repeat_interleave(4), labels.repeat_interleave(2))
    torch.testing.assert_close(ours, plain)


def test_dc_does_not_augment_and_dsa_does():
    shape = (3, 32, 32)
    dc = DistillConfig.from_recipe("atom", ipc=1, image_shape=shape, matcher="dc")
    dsa = DistillConfig.from_recipe("atom", ipc=1, image_shape=shape, matcher="dsa")
    assert (dc.augmentation, dsa.augmentation) == ("none", DEFAULT_STRATEGY)
    assert (dc.image_lr, dc.precision, dc.network.normalisation) == (0.1, "float32", "instance")
    given = DistillConfig.from_recipe(
        "atom", ipc=1, image_shape=shape, matcher="dc", augmentation="flip", network={"normalisation": "group"}
    )
    assert (given.augmentation, given.network.normalisation, given.image_lr) == ("flip", "group", 0.1)
    steps = {}
    for name in ("dc", "dsa"):
        distiller = Distiller(small_config(matcher=name), coloured_source(), device="cpu")
        steps[name] = distiller.step()
        unaugmented = Distiller(replace(distiller.config, augmentation="none"), coloured_source(), device="cpu")
        assert (unaugmented.step() == steps[name]) == (name == "dc")
    assert steps["dc"] != steps["dsa"]


def test_loop_defaults_that_no_loop_has_are_refused(monkeypatch):
    monkeypatch.setattr(MATCHERS, "_local", dict(MATCHERS._local))

    @MATCHERS.register("greedy")
    class Greedy(PixelMatching):
        loop_defaults: ClassVar[dict[str, Any]] = {"seed": 3, "speed": 9, "network": {"colour": "red"}}

    assert Greedy().loss_scale == 1
    with pytest.raises(ConfigError, match="loop_defaults for seed, speed, colour, which it cannot set"):
        DistillConfig.from_recipe("atom", ipc=1, image_shape=(3, 8, 8), matcher="greedy")


def test_released_loops():
    loops = {}
    for ipc in (1, 10, 20, 50):
        config = DistillConfig.from_recipe("dc-code", ipc=ipc, image_shape=(3, 32, 32))
        loops[ipc] = (config.iterations, config.inner_loop, config.network_epochs)
    assert loops == {1: (1000, 1, 0), 10: (10_000, 10, 50), 20: (20_000, 20, 25), 50: (50_000, 50, 10)}
    assert (config.real_batch, config.image_lr, config.image_init, config.augmentation) == (256, 0.1, "noise", "none")
    dsa = DistillConfig.from_recipe("dsa-code", ipc=1, image_shape=(3, 32, 32))
    assert (dsa.matcher, dsa.image_init, dsa.augmentation) == ("dsa", "random", DEFAULT_STRATEGY)


def test_cross_entropy_is_the_mean_over_a_class():
    """Sizes of the batches must not matter beyond the mean: doubling a class's images changes nothing."""
    net, real, synthetic = network(), images(6, "real"), images(3, "synthetic")
    labels = torch.arange(3)
    once = make_matcher("dc").loss(net, real, synthetic, labels.repeat_interleave(2), labels)
    twice = make_matcher("dc").loss(
        net, real.repeat(2, 1, 1, 1), synthetic, labels.repeat_interleave(2).repeat(2), labels
    )
    torch.testing.assert_close(once, twice)
    assert F.cross_entropy(net(real), labels.repeat_interleave(2)) > 0

"""Every engine takes the statistics, and hands back the gradient, of the plain one."""

import copy
import itertools

import pytest
import torch
from torch import nn

from atom_plugin.distillation.engine import ENGINES, choose_engine
from atom_plugin.distillation.engine.cuda_engine import CudaEngine
from atom_plugin.distillation.engine.plain_engine import PlainEngine
from atom_plugin.errors import ConfigError
from atom_plugin.matchers import make_matcher
from atom_plugin.matchers.attention import Atom
from atom_plugin.models.batchnorm import batch_norms
from atom_plugin.models.convnet import ACTIVATIONS, NORMALISATIONS, ConvNetConfig
from atom_plugin.runtime.randomness import generator_for

CLASSES, WIDTH, SIDE = 5, 8, 16
MATCHERS = {"atom": {}, "dm": {}, "feature": {}, "datadam": {"layers": [1, 3]}, "atom-channel": {"kernel": "mixture"}}


def of_images(count, dtype):
    """The bytes of the first maps of ``count`` images."""
    return count * WIDTH * SIDE * SIDE * dtype.itemsize


# By name: what makes an engine for a network that computes in a type. On any device, since none asks what it is on.
MAKERS = {
    f"cuda, {classes} classes at a time": lambda network, dtype, classes=classes: CudaEngine(
        network, map_bytes=of_images(6 * classes, dtype)
    )
    for classes in (1, 2, 5)
}


def a_network(dtype=torch.float64, **choices):
    config = ConvNetConfig(**{"depth": 3, "width": WIDTH, **choices})
    network = config.build((3, SIDE, SIDE), CLASSES, generator=generator_for(0, "network")).to(dtype)
    affine = generator_for(0, "affine")  # a scale and a shift that show
    for norm in (module for module in network.modules() if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm))):
        norm.weight.data.uniform_(0.5, 2.0, generator=affine)
        norm.bias.data.normal_(generator=affine)
    return network.requires_grad_(False).to(memory_format=torch.channels_last)


def some_images(purpose, per_class, dtype=torch.float64):
    shape = (CLASSES * per_class, 3, SIDE, SIDE)
    images = torch.randn(shape, generator=generator_for(0, purpose), dtype=dtype) * 3 + 2
    return images.contiguous(memory_format=torch.channels_last)


def taken(engine, matcher, dtype=torch.float64):
    """Both branches' statistics, and the gradient of a random loss of the synthetic ones."""
    real = engine.real(matcher, some_images("real", 6, dtype), groups=CLASSES)
    images = some_images("synthetic", 3, dtype).requires_grad_()
    synthetic = engine.synthetic(matcher, images, groups=CLASSES)
    generator = generator_for(0, "weights")
    loss = sum((torch.randn(item.shape, generator=generator, dtype=dtype) * item).sum() for item in synthetic)
    assert not any(item.requires_grad for item in real)
    return real, tuple(item.detach() for item in synthetic), torch.autograd.grad(loss, images)[0]


def assert_plain(maker, network, matcher, dtype=torch.float64, **tolerances):
    plain = taken(PlainEngine(network, network.features), matcher, dtype)
    torch.testing.assert_close(taken(MAKERS[maker](network, dtype), matcher, dtype), plain, **tolerances)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(("normalisation", "matcher"), list(itertools.product(NORMALISATIONS, MATCHERS)))
def test_every_engine_equals_the_plain_one(maker, normalisation, matcher):
    network = a_network(normalisation=normalisation)
    assert_plain(maker, network, make_matcher(matcher, MATCHERS[matcher]), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("maker", ["cuda, 2 classes at a time"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("pooling", ["none", "max", "avg"])
def test_every_activation_and_pooling(maker, activation, pooling):
    for normalisation in ("batch", "instance"):
        network = a_network(normalisation=normalisation, activation=activation, pooling=pooling, depth=2, width=WIDTH)
        assert_plain(maker, network, make_matcher("atom"), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("normalisation", ["batch", "instance", "none"])
def test_in_float32(maker, normalisation):
    network = a_network(torch.float32, normalisation=normalisation)
    assert_plain(maker, network, make_matcher("atom"), torch.float32, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("normalisation", ["group", "layer", "instance"])
def test_a_mean_of_a_hundred_deviations_costs_no_digits(normalisation):
    network = a_network(torch.float32, normalisation=normalisation, depth=2)
    for block in network.conv_blocks():
        block.convolution.bias.fill_(300.0)
    exact, images = copy.deepcopy(network).double(), some_images("real", 2).float()
    ours = CudaEngine(network).real(make_matcher("atom"), images, groups=CLASSES)
    theirs = PlainEngine(exact, exact.features).real(make_matcher("atom"), images.double(), groups=CLASSES)
    for one, other in zip(ours, theirs, strict=True):
        distance = torch.linalg.vector_norm(one - other) / torch.linalg.vector_norm(other)
        assert distance < 1e-3


@pytest.mark.parametrize("normalisation", ["instance", "layer", "batch"])
def test_cuda_reduces_maps_in_bfloat16(normalisation):
    seen: list[torch.dtype] = []

    class Noting(Atom):
        def describe_map(self, feature_map):
            seen.append(feature_map.dtype)
            return super().describe_map(feature_map)

    engine, images = CudaEngine(a_network(torch.float32, normalisation=normalisation)), some_images("x", 6).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        real = engine.real(Noting(), images, groups=CLASSES)
        found = engine.synthetic(Noting(), images.requires_grad_(), groups=CLASSES)
    assert seen == [torch.bfloat16] * 4
    for ours, same in zip(real, found, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, same.detach(), rtol=0.05, atol=0.02)


def test_the_fastest_that_suits_is_chosen_and_any_network_has_the_plain_one():
    convnet, other = a_network(), nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())

    def kind(network, device, name="auto"):
        return type(choose_engine(name, network, lambda images, *, groups: None, torch.device(device)))

    assert [kind(convnet, device) for device in ("cpu", "cuda", "mps")] == [PlainEngine, CudaEngine, PlainEngine]
    assert [kind(other, device) for device in ("cpu", "cuda")] == [PlainEngine, PlainEngine]
    assert [kind(convnet, device, "plain") for device in ("cpu", "cuda")] == [PlainEngine, PlainEngine]
    for network, device, name in ((convnet, "cpu", "cuda"), (other, "cuda", "cuda")):
        with pytest.raises(
            ConfigError, match=f"the {name} engine .* {type(network).__name__} on {device}.*--engine auto"
        ):
            kind(network, device, name)
    with pytest.raises(ConfigError, match=f"{', '.join(ENGINES)}, not 'fast'"):
        kind(convnet, "cpu", "fast")
    assert not batch_norms(other)

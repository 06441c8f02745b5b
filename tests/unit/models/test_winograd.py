from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from atom_plugin.models import winograd
from atom_plugin.models.convnet import ACTIVATIONS, NORMALISATIONS, ConvNetConfig
from atom_plugin.runtime.device import autocast
from atom_plugin.runtime.randomness import generator_for


def operands(count, size, channels=32, outputs=48, *, bias=True):
    generator = generator_for(0, "winograd")
    images = torch.randn(count, channels, *size, generator=generator).to(memory_format=torch.channels_last)
    weight = torch.randn(outputs, channels, 3, 3, generator=generator) / (3 * channels**0.5)
    return images, weight, torch.randn(outputs, generator=generator) if bias else None


def relative_error(found, oracle):
    return float((found.double() - oracle).norm() / oracle.norm())


@pytest.mark.parametrize("size", [(4, 4), (8, 8), (16, 16), (8, 20), (32, 32)])
@pytest.mark.parametrize("count", [1, 5, 67])
def test_it_is_the_direct_convolution(size, count):
    images, weight, bias = operands(count, size)
    oracle = F.conv2d(images.double(), weight.double(), bias.double(), padding=1)
    found = winograd.convolve(images, weight, bias)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert relative_error(found, oracle) < 2e-6
    assert (found - oracle).abs().max() < 5e-5


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("count", [3, 40])
def test_its_gradients_are_the_direct_ones(count, bias):
    images, weight, shift = operands(count, (8, 8), bias=bias)
    inputs = [item.requires_grad_() for item in (images, weight, shift) if item is not None]
    down = torch.randn(count, len(weight), 8, 8, generator=generator_for(1, "down"))
    found = torch.autograd.grad(winograd.convolve(images, weight, shift), inputs, down)
    wide = [item.detach().double().requires_grad_() for item in inputs]
    oracle = torch.autograd.grad(F.conv2d(*wide, padding=1), wide, down.double())
    for ours, theirs in zip(found, oracle, strict=True):
        assert ours.shape == theirs.shape
        assert relative_error(ours, theirs) < 1e-5


def test_a_gradient_of_its_gradient_is_the_direct_one():
    images, weight, bias = operands(4, (8, 8))
    gradients = []
    for convolve in (winograd.convolve, lambda x, w, b: F.conv2d(x, w, b, padding=1)):
        inputs = images.clone().requires_grad_(), weight.clone().requires_grad_()
        (first,) = torch.autograd.grad(convolve(*inputs, bias).square().sum(), inputs[1], create_graph=True)
        gradients.append(torch.autograd.grad(first.square().sum(), inputs[0])[0])
    assert relative_error(gradients[0], gradients[1].double()) < 1e-4


def test_only_what_needs_a_gradient_gets_one():
    images, weight, bias = operands(4, (8, 8))
    winograd.convolve(images.requires_grad_(), weight, bias).sum().backward()
    assert images.grad is not None
    assert weight.grad is None


def test_the_same_result_whatever_the_number_of_threads():
    images, weight, bias = operands(40, (16, 16))
    images.requires_grad_()
    weight.requires_grad_()
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            output = winograd.convolve(images, weight, bias)
            results.append((output, *torch.autograd.grad(output.square().sum(), (images, weight))))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert relative_error(one.detach(), two.detach().double()) < 1e-6


def test_what_it_suits():
    images, weight, _ = operands(40, (8, 8))
    assert not winograd.suits(images, weight), "nobody asked for it"
    with winograd.enabled():
        assert winograd.suits(images, weight)
        assert not winograd.suits(images.double(), weight.double())
        assert not winograd.suits(images.bfloat16(), weight.bfloat16())
        assert not winograd.suits(images[:, :3], weight[:, :3]), "the first convolution has too few channels"
        assert not winograd.suits(images[..., :7, :7], weight)
        assert not winograd.suits(images[:2], weight), "too few tiles"
        assert not winograd.suits(images, weight[..., :1, :1])
        with torch.autocast("cpu", torch.bfloat16):
            assert not winograd.suits(images, weight)
    assert not winograd.suits(images, weight)


def test_it_stays_on_where_it_was_turned_on_twice():
    images, weight, _ = operands(40, (8, 8))
    with winograd.enabled():
        with winograd.enabled():
            pass
        assert winograd.suits(images, weight)


def gradients(config, images, *, precision="float32"):
    """Of a loss of the logits, for the images and all parameters, in float64."""
    network = config.build((3, 16, 16), 4, generator=generator_for(0, "network")).to(memory_format=torch.channels_last)
    network.to(images.dtype)
    leaf = images.detach().requires_grad_()
    with autocast(torch.device("cpu"), precision):
        loss = F.cross_entropy(network(leaf).float(), torch.arange(len(leaf)) % 4)
    return [item.double() for item in torch.autograd.grad(loss, [leaf, *network.parameters()])]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_every_network_of_the_family_trains_with_it_and_without(normalisation, activation):
    """An activation in place right after the convolution, where nothing normalises, meets no view."""
    config = ConvNetConfig(width=32, depth=2, normalisation=normalisation, activation=activation)
    images = torch.randn(20, 3, 16, 16, generator=generator_for(0, "images")).to(memory_format=torch.channels_last)
    oracle = torch.cat([item.flatten() for item in gradients(config, images.double())])
    found = {}
    for precision, tolerance in (("float32", 1e-3), ("bfloat16", 0.1)):
        for fast in (False, True):
            with winograd.enabled() if fast else nullcontext():
                flat = torch.cat([item.flatten() for item in gradients(config, images, precision=precision)])
            assert relative_error(flat, oracle) < tolerance
            found[precision, fast] = flat
    assert not torch.equal(found["float32", True], found["float32", False]), "Winograd's convolution did not run"
    assert torch.equal(found["bfloat16", True], found["bfloat16", False])


def test_networks_that_are_judged_are_trained_by_the_direct_sum():
    network = ConvNetConfig(width=32, depth=2).build((3, 16, 16), 4, generator=generator_for(0, "network"))
    images = torch.randn(20, 3, 16, 16, generator=generator_for(0, "images"))
    with torch.no_grad():
        plain = network(images)
        block = network.conv_blocks()[1]
        middle = network.conv_blocks()[0](images)[1]
        direct = F.conv2d(middle, block.convolution.weight, block.convolution.bias, padding=1)
        assert torch.equal(block.convolution(middle), direct)
        with winograd.enabled():
            assert not torch.equal(network(images), plain)


@pytest.mark.parametrize("batched", ["images", "weight"])
def test_it_runs_under_vmap_and_its_gradient_too(batched):
    images, weight, bias = operands(40, (8, 8))
    several = torch.stack([images, images.flip(0)]) if batched == "images" else torch.stack([weight, weight.flip(2)])

    def loss(convolve, one):
        given = (one, weight) if batched == "images" else (images, one)
        return convolve(*given, bias).square().sum()

    def direct(x, w, b):
        return F.conv2d(x, w, b, padding=1)

    found, expected = (
        torch.func.vmap(torch.func.grad(partial(loss, convolve)))(several) for convolve in (winograd.convolve, direct)
    )
    assert relative_error(found, expected.double()) < 1e-4


def test_a_network_of_it_runs_under_vmap():
    network = ConvNetConfig(width=32, depth=2, normalisation="layer").build(
        (3, 16, 16), 4, generator=generator_for(0, "network")
    )
    images = torch.randn(3, 40, 3, 16, 16, generator=generator_for(0, "images"))
    state = dict(network.named_parameters())
    with winograd.enabled():
        together = torch.func.vmap(lambda x: torch.func.functional_call(network, state, (x,)))(images)
        torch.testing.assert_close(together[1], network(images[1]), rtol=1e-3, atol=1e-4)

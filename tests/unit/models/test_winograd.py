import pytest
import torch
from torch.nn import functional as F

from atom_plugin.models import winograd
from atom_plugin.models.convnet import ConvNetConfig
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
    assert winograd.suits(images, weight)
    assert not winograd.suits(images.double(), weight.double())
    assert not winograd.suits(images.bfloat16(), weight.bfloat16())
    assert not winograd.suits(images[:, :3], weight[:, :3]), "the first convolution has too few channels"
    assert not winograd.suits(images[..., :7, :7], weight)
    assert not winograd.suits(images[:2], weight), "too few tiles"
    assert not winograd.suits(images, weight[..., :1, :1])
    with torch.autocast("cpu", torch.bfloat16):
        assert not winograd.suits(images, weight)


def test_a_network_of_it_runs_under_vmap():
    network = ConvNetConfig(width=32, depth=2, normalisation="layer").build(
        (3, 16, 16), 4, generator=generator_for(0, "network")
    )
    images = torch.randn(3, 40, 3, 16, 16, generator=generator_for(0, "images"))
    state = dict(network.named_parameters())
    together = torch.func.vmap(lambda x: torch.func.functional_call(network, state, (x,)))(images)
    torch.testing.assert_close(together[1], network(images[1]), rtol=1e-3, atol=1e-4)

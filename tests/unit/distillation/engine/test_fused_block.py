"""The kernels of a block against torch in float64: by triton's interpreter here, compiled where there is a GPU."""

import copy
import itertools
import logging
import sys

import numpy as np
import pytest
import torch

from atom_plugin.distillation.engine import fused_block
from atom_plugin.distillation.engine.cuda_engine import CudaEngine, fuses
from atom_plugin.distillation.engine.plain_engine import PlainEngine
from atom_plugin.matchers import make_matcher, powers_of
from atom_plugin.matchers.attention import Atom
from atom_plugin.matchers.power_sums import power_sums
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.runtime.device import repeatable_convolutions
from atom_plugin.runtime.randomness import generator_for
from tests.unit.distillation.engine.test_engines import CLASSES, a_network, some_images

pytest.importorskip("triton")
if not torch.cuda.is_available() and np.lib.NumpyVersion(np.__version__) >= "2.4.0":
    pytest.skip(
        "triton's interpreter takes arrays of one number for numbers, numpy before 2.4 alone", allow_module_level=True
    )

# What the skip above is about, in older versions of numpy.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
FLOAT32, BFLOAT16 = {"rtol": 2e-4, "atol": 2e-5}, {"rtol": 3e-2, "atol": 3e-2}


def a_block(normalisation, width, dtype=torch.float32):
    network = a_network(torch.float32, normalisation=normalisation, width=width)
    return network.conv_blocks()[0].to(DEVICE, dtype)


def an_output(count, width, height, side, dtype, *, mean=0.5):
    values = torch.randn(count, width, height, side, generator=generator_for(0, "output"), dtype=torch.float64) + mean
    return values.to(DEVICE, dtype).contiguous(memory_format=torch.channels_last)


def pieces_of(block, output, powers, *, ours):
    """The pooled map and the sums, and the gradient of a random loss of them for ``output``."""
    leaf = output.detach().requires_grad_()
    if ours:
        pooled, sums = fused_block.finished(block, leaf, powers)
    else:
        feature_map = block.activation(block.normalisation(leaf))
        pooled, sums = block.pool(feature_map), power_sums(feature_map, *powers)
    generator = generator_for(0, "loss")
    weights = [torch.randn(item.shape, generator=generator, dtype=torch.float64).to(item) for item in (pooled, *sums)]
    loss = sum((weight * item).sum() for weight, item in zip(weights, (pooled, *sums), strict=True))
    return [pooled.detach(), *(item.detach() for item in sums), torch.autograd.grad(loss, leaf)[0]]


def distances(ours, theirs):
    """Relative to the size of ``theirs``."""
    norm = torch.linalg.vector_norm
    return [float(norm(one.double() - other) / norm(other)) for one, other in zip(ours, theirs, strict=True)]


def both(normalisation, powers, shape, dtype, mean):
    """Ours and torch's: both take the same numbers, of ``dtype``; torch reckons in float64."""
    count, width, height, side = shape
    output = an_output(count, width, height, side, dtype, mean=mean)
    ours = pieces_of(a_block(normalisation, width), output, powers, ours=True)
    return ours, pieces_of(a_block(normalisation, width, torch.float64), output.double(), powers, ours=False)


def assert_torch(normalisation, powers, shape, dtype, tolerances, *, mean=0.5):
    ours, theirs = both(normalisation, powers, shape, dtype, mean)
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        size = other.abs().mean()
        torch.testing.assert_close(one.double() / size, other / size, **tolerances)


@pytest.mark.parametrize("normalisation", ["batch", "instance"])
@pytest.mark.parametrize("powers", [(4, 4), (None, None), (1, None), (None, 2), (8, 1), (2, 4.0)])
def test_it_gives_what_torch_gives(normalisation, powers):
    assert_torch(normalisation, powers, (3, 8, 6, 6), torch.float32, FLOAT32)


@pytest.mark.parametrize("normalisation", ["batch", "instance"])
@pytest.mark.parametrize("shape", [(2, 5, 7, 5), (1, 8, 2, 2), (3, 12, 20, 4), (2, 40, 9, 8)])
def test_odd_sides_and_any_width(normalisation, shape):
    assert_torch(normalisation, (4, 2), shape, torch.float32, FLOAT32)


@pytest.mark.parametrize("normalisation", ["batch", "instance"])
def test_bfloat16_is_read_as_it_is_and_reckoned_in_float32(normalisation):
    assert_torch(normalisation, (4, 4), (3, 8, 6, 6), torch.bfloat16, BFLOAT16)
    output = an_output(3, 8, 6, 6, torch.bfloat16)
    pooled, sums = fused_block.finished(a_block(normalisation, 8), output, (4, 4))
    assert pooled.dtype == torch.bfloat16
    assert [item.dtype for item in sums] == [torch.float32] * 2


@pytest.mark.parametrize("normalisation", ["batch", "instance"])
def test_a_mean_of_a_thousand_deviations_costs_few_digits(normalisation):
    assert_torch(normalisation, (4, 4), (3, 8, 16, 16), torch.float32, {"rtol": 2e-3, "atol": 2e-3}, mean=1000.0)


def test_what_is_no_number_stays_none():
    output = an_output(2, 8, 4, 4, torch.float32)
    output[1, 3, 2, 2] = float("nan")
    pooled, sums = fused_block.finished(a_block("batch", 8), output, (4, 4))
    assert pooled[:, 3].isnan().all()
    assert sums[1][:, 3].isnan().all()
    assert pooled[:, 2].isfinite().all()


def test_bytes_repeat():
    output = an_output(6, 8, 8, 8, torch.float32)
    first, again = (pieces_of(a_block("batch", 8), output, (4, 4), ours=True) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)


def taken(engine, matcher, dtype):
    """Both branches' statistics, and the gradient of a random loss of the synthetic ones."""
    real, images = (
        some_images(kind, 1, torch.float32)[..., :8, :8].to(DEVICE, dtype) for kind in ("real", "synthetic")
    )
    real = engine.real(matcher, real, groups=CLASSES)
    images.requires_grad_()
    synthetic = engine.synthetic(matcher, images, groups=CLASSES)
    generator = generator_for(0, "weights")
    weights = [torch.randn(item.shape, generator=generator, dtype=torch.float64).to(item) for item in synthetic]
    loss = sum((weight * item).sum() for weight, item in zip(weights, synthetic, strict=True))
    return [*real, *(item.detach() for item in synthetic), torch.autograd.grad(loss, images)[0]]


@pytest.mark.parametrize("normalisation", ["batch", "instance", "layer"])
@pytest.mark.parametrize("matcher", ["atom", "atom-channel", "datadam", "dm", "feature"])
def test_an_engine_with_them_equals_the_plain_one(matcher, normalisation):
    network = a_network(torch.float32, normalisation=normalisation, depth=2).to(DEVICE)
    exact = copy.deepcopy(network).double()
    matching = make_matcher(matcher, {"layers": [2]} if matcher == "atom" else {})
    with repeatable_convolutions():  # float32 is not TF32
        ours = taken(CudaEngine(network, fused=True), matching, torch.float32)
    theirs = taken(PlainEngine(exact, exact.features), matching, torch.float64)
    # Rounding may take a value to the other side of relu's corner: that shows in one gradient, not in the sums.
    *differences, of_gradient = distances(ours, theirs)
    assert max(differences) < 1e-3
    assert of_gradient < 3e-2


@pytest.mark.parametrize(
    "choices", [{"activation": "leakyrelu"}, {"pooling": "max"}, {"pool_size": 3}, {"normalisation": "group"}, {}]
)
def test_what_they_do_not_suit_is_left_to_torch(choices):
    suited = [fused_block.suits(block, (4, 4)) for block in a_network(torch.float32, **choices).conv_blocks()]
    assert suited == [not choices] * 3
    assert not fused_block.suits(a_block("batch", 8), (3, None))
    assert not fused_block.suits(a_block("batch", 8, torch.float64), (4, 4))


def test_they_are_tried_before_they_are_used():
    network = a_network(torch.float32, depth=2).to(DEVICE)
    for precision, matcher in (("float32", "dm"), ("bfloat16", "atom")):
        assert fuses(network, make_matcher(matcher), (3, 8, 8), precision)


def test_a_matcher_that_describes_maps_in_a_way_of_its_own_is_given_maps():
    class Other(Atom):
        def describe_map(self, feature_map):
            return (feature_map.flatten(2).amax(2),)

    assert powers_of(Atom(p_s=2)) == (2, 4)
    assert powers_of(make_matcher("datadam")) == (4, None)
    assert powers_of(Other()) is None
    assert powers_of(make_matcher("feature")) is None


def test_without_triton_a_line_says_so(monkeypatch, caplog):
    kernels = "atom_plugin.distillation.engine.fused_kernels"
    monkeypatch.delitem(sys.modules, kernels, raising=False)
    monkeypatch.delattr(sys.modules["atom_plugin.distillation.engine"], "fused_kernels", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    with caplog.at_level(logging.WARNING, "atom_plugin"):
        assert not fuses(a_network(torch.float32).to(DEVICE), make_matcher("atom"), (3, 16, 16), "float32")
    assert "no fused blocks" in caplog.text
    assert "triton" in caplog.text


def test_results_that_are_wrong_are_not_taken(monkeypatch, caplog):
    right = fused_block.finished

    def wrong(block, output, powers):
        pooled, sums = right(block, output, powers)
        return pooled * 2, sums

    monkeypatch.setattr(fused_block, "finished", wrong)
    with caplog.at_level(logging.WARNING, "atom_plugin"):
        assert not fuses(a_network(torch.float32, depth=2).to(DEVICE), make_matcher("dm"), (3, 8, 8), "float32")
    assert "they differ" in caplog.text


@needs_gpu
@pytest.mark.parametrize("normalisation", ["batch", "instance"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(100, 128, 32, 32), (640, 128, 16, 16), (50, 128, 7, 7)])
def test_at_the_size_of_a_run(normalisation, dtype, shape):
    ours, theirs = both(normalisation, (4, 4), shape, dtype, 0.5)
    assert max(distances(ours, theirs)) < (1e-2 if dtype == torch.bfloat16 else 1e-3)


@needs_gpu
def test_a_real_network_is_fused_on_cuda():
    network = ConvNetConfig(depth=3, width=128).build((3, 32, 32), 10, generator=generator_for(0, "network"))
    network = network.requires_grad_(False).to("cuda", memory_format=torch.channels_last)
    for precision, matcher in itertools.product(("float32", "bfloat16"), ("atom", "datadam", "atom-channel", "dm")):
        assert fuses(network, make_matcher(matcher), (3, 32, 32), precision)

"""The kernels of augmentation against torch's operations: by triton's interpreter here, compiled where there is a GPU."""

import logging
import sys

import numpy as np
import pytest
import torch

from atom_plugin.transforms.augmentation import OPERATIONS, Augmentation, augment
from atom_plugin.transforms.fused_augmentation import augment_fused, fuses

pytest.importorskip("triton")
if not torch.cuda.is_available() and np.lib.NumpyVersion(np.__version__) >= "2.4.0":
    pytest.skip(
        "triton's interpreter takes arrays of one number for numbers, numpy before 2.4 alone", allow_module_level=True
    )

# What the skip above is about, in older versions of numpy.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def images(classes, count, shape):
    return torch.randn(classes, count, *shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)


def assert_torch(settings, given, *, seed=2, dtype=torch.float32, tolerance=1e-5):
    """The images and the gradient of a random loss; torch reckons in float64, from the same plan."""
    plan = settings.draw(len(given), torch.Generator().manual_seed(seed)).plan(given.shape[-2:]).to(DEVICE)
    leaf, exact = given.clone().requires_grad_(), given.double().requires_grad_()
    ours = augment_fused(settings, leaf, plan, dtype)
    theirs = augment(settings, exact, plan.double()).flatten(0, 1)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.detach().double(), theirs.detach(), rtol=tolerance, atol=tolerance)
    weights = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    weights = weights.to(dtype).double()
    (found,) = torch.autograd.grad((ours * weights).sum(), leaf)
    (expected,) = torch.autograd.grad((theirs * weights).sum(), exact)
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("operation", [*OPERATIONS, "none"])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 7, 12)])
def test_each_operation_and_its_gradient_are_those_of_torch(operation, shape):
    assert_torch(Augmentation(strategy=operation), images(3, 2, shape))


def test_all_operations_in_one_call():
    assert_torch(Augmentation(), images(12, 1, (3, 8, 8)))
    assert_torch(Augmentation(rotate=40.0, scale=1.6), images(12, 1, (3, 6, 9)), seed=5)


def test_bfloat16_is_what_comes_out():
    assert_torch(Augmentation(), images(8, 1, (3, 8, 8)), dtype=torch.bfloat16, tolerance=0.02)


def test_images_of_more_places_than_a_program_takes_at_once():
    assert_torch(Augmentation(strategy="color_rotate"), images(2, 1, (1, 40, 40)))


@pytest.mark.parametrize("strategy", ["color", "none", "color_crop_cutout_flip_scale_rotate"])
def test_they_are_tried_before_they_are_used(strategy):
    for dtype in (torch.float32, torch.bfloat16):
        assert fuses(Augmentation(strategy=strategy), (3, 8, 8), DEVICE, dtype)


def test_more_channels_are_left_to_torch():
    assert not fuses(Augmentation(), (5, 8, 8), DEVICE, torch.float32)


def test_without_triton_a_line_says_so(monkeypatch, caplog):
    monkeypatch.delitem(sys.modules, "atom_plugin.transforms.augmentation_kernels", raising=False)
    monkeypatch.delattr(sys.modules["atom_plugin.transforms"], "augmentation_kernels", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    with caplog.at_level(logging.WARNING, "atom_plugin"):
        assert not fuses(Augmentation(), (3, 8, 8), DEVICE, torch.float32)
    assert "no fused augmentation" in caplog.text
    assert "triton" in caplog.text


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_the_size_of_a_run(dtype):
    for seed in range(5):
        tolerance = 2e-4 if dtype == torch.float32 else 0.05
        assert_torch(Augmentation(), images(10, 64, (3, 32, 32)), seed=seed, dtype=dtype, tolerance=tolerance)

"""The ways to fit a whitening agree, and what cannot be fitted is refused before it is tried."""

import logging

import pytest
import torch
from kornia.enhance import ZCAWhitening

from atom_plugin.errors import ConfigError
from atom_plugin.transforms import whitening
from atom_plugin.transforms.preprocessing import Preprocessing
from atom_plugin.transforms.whitening import Whitening, fit_plan


@pytest.mark.parametrize(
    "matrix", [torch.zeros(4, 4), torch.ones(4, 4), torch.eye(4) * 1e-45, torch.full((4, 4), 1e38)]
)
def test_a_matrix_without_an_inverse_is_one_line(matrix):
    whitening = Whitening(mean=torch.zeros(4), matrix=matrix, eps=0.1)
    with pytest.raises(ConfigError, match=r"the ZCA matrix has no inverse.*restore a copy"):
        _ = whitening.inverse_matrix


def smooth(count: int, size: int = 8) -> torch.Tensor:
    """Images whose neighbouring pixels go together, as photographs' do: float32 (count, 3, size, size), about standardised."""
    coarse = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    fine = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear") + 0.1 * fine


@pytest.mark.parametrize("count", [2, 20, 150])
def test_the_low_rank_form_is_kornias_matrix(count):
    images = smooth(count)  # of 192 values
    kornias = ZCAWhitening(dim=0, eps=0.1, compute_inv=False).fit(images)
    found = Whitening.fit_low_rank(lambda: images.split(7), eps=0.1)
    torch.testing.assert_close(found.mean, kornias.mean_vector.flatten(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.matrix, kornias.transform_matrix, rtol=1e-4, atol=1e-4)
    assert found.matrix.dtype == torch.float32


def test_the_low_rank_form_solves_the_equation():
    images, eps = smooth(30), 1e-3
    found = Whitening.fit_low_rank(lambda: [images], eps=eps).matrix.double()
    covariance = images.flatten(1).double().T.cov()
    # W is the symmetric matrix with W (C + eps) W = 1.
    left = found @ (covariance + eps * torch.eye(192, dtype=torch.float64)) @ found
    torch.testing.assert_close(left, torch.eye(192, dtype=torch.float64), rtol=0, atol=1e-3)


def test_images_that_are_all_alike_are_divided_by_the_root_of_eps():
    found = Whitening.fit_low_rank(lambda: [torch.ones(3, 1, 2, 2)], eps=0.25)
    torch.testing.assert_close(found.matrix, 2 * torch.eye(4))


def test_rows_of_the_matrix_are_made_in_parts(monkeypatch):
    whole = Whitening.fit_low_rank(lambda: [smooth(9)], eps=0.1)
    monkeypatch.setattr(whitening, "_ROWS", 7)
    torch.testing.assert_close(Whitening.fit_low_rank(lambda: [smooth(9)], eps=0.1).matrix, whole.matrix)


@pytest.mark.parametrize(
    ("count", "size", "eps", "way"),
    [
        (100, 3072, 0.1, "low rank"),
        (100, 3072, 1e-6, "kornia"),  # kornia's result is float32's rounding of zeros there, which no other form gives
        (3072, 3072, 0.1, "kornia"),
        (50_000, 3072, 0.1, "kornia"),
        (60_000, 3072, 0.1, "streamed"),
    ],
)
def test_which_way_is_taken(count, size, eps, way):
    plan = fit_plan(count, size, eps)
    assert plan.way == way and plan.images == min(count, 50_000)


def test_few_images_are_whitened_without_the_decomposition():
    images = torch.randint(0, 256, (20, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    fitted = Preprocessing.fit(images, zca_eps=0.1)
    plain = Preprocessing.fit(images).forward(images)
    expected = Whitening.fit_low_rank(lambda: [plain], eps=0.1)
    assert torch.equal(fitted.whitening.matrix, expected.matrix)


def test_one_image_is_refused():
    with pytest.raises(ConfigError, match=r"two images.*found 1.*--no-zca"):
        Preprocessing.fit(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), zca_eps=0.1)


@pytest.mark.parametrize(
    ("count", "size", "eps", "memory", "said"),
    [
        (100_000, 3 * 96 * 96, 0.1, 24e9, "37 GB in all, and this machine has 24"),
        (1_000, 3 * 96 * 96, 1e-6, 2e12, "more than the 23,000 values"),
        (1_000_000, 3 * 128 * 128, 0.1, 2e12, "more than the 32,000 values"),
        (1_000, 3 * 96 * 96, 0.1, 8e9, "10 GB in all, and this machine has 8"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_tried(monkeypatch, count, size, eps, memory, said):
    monkeypatch.setattr(whitening, "machine_memory", lambda: int(memory))
    with pytest.raises(ConfigError) as caught:
        fit_plan(count, size, eps)
    for part in (said, f"{size:,} x {size:,}", "--no-zca", "--image-size"):
        assert part in str(caught.value)


def test_what_a_large_fit_takes_is_told(monkeypatch, caplog):
    monkeypatch.setattr(whitening, "machine_memory", lambda: 2**40)
    with caplog.at_level(logging.WARNING):
        fit_plan(60_000, 3 * 32 * 32, 0.1)
        assert not caplog.records
        fit_plan(60_000, 3 * 64 * 64, 0.1)
    assert "12,288 x 12,288 (0.6 GB" in caplog.text and "minutes" in caplog.text


def test_its_repr_holds_no_matrix():
    assert repr(Whitening.fit_low_rank(lambda: [smooth(4)], eps=0.1)) == "Whitening(192 values, eps 0.1)"

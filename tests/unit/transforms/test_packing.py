"""Packing against a literal loop over tiles."""

import pytest
import torch
from torch.nn import functional as F

from atom_plugin.errors import ConfigError
from atom_plugin.transforms.packing import check_factor, decode, pack, unpack
from atom_plugin.transforms.preprocessing import Preprocessing


def literally_unpacked(images, factor):
    """Tile by tile, row by row, each enlarged by torch."""
    _, _, height, width = images.shape
    rows, columns = height // factor, width // factor
    found = []
    for image in images:
        for row in range(factor):
            for column in range(factor):
                tile = image[:, row * rows : (row + 1) * rows, column * columns : (column + 1) * columns]
                found.append(F.interpolate(tile[None], size=(height, width), mode="bilinear", align_corners=False)[0])
    return torch.stack(found)


@pytest.mark.parametrize(
    ("factor", "shape"), [(1, (3, 4, 6)), (2, (3, 8, 8)), (2, (1, 4, 6)), (3, (2, 6, 9)), (4, (1, 4, 4))]
)
def test_tiles_are_enlarged_as_the_paper_has_it(factor, shape):
    images = torch.randn(3, *shape, dtype=torch.float64)
    torch.testing.assert_close(unpack(images, factor), literally_unpacked(images, factor), rtol=1e-12, atol=1e-12)


def test_its_gradient_is_that_of_the_literal_loop():
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(8, 3, 8, 8, dtype=torch.float64)
    ours, theirs = (
        torch.autograd.grad((way(images, 2) * weights).sum(), images)[0] for way in (unpack, literally_unpacked)
    )
    torch.testing.assert_close(ours, theirs)


def test_packing_puts_the_mean_of_each_area_into_its_tile():
    images = torch.arange(8 * 16, dtype=torch.float32).view(8, 1, 4, 4)
    packed = pack(images, 2)
    assert packed.shape == (2, 1, 4, 4)
    assert (
        packed[1, 0, 2:, :2].tolist() == F.avg_pool2d(images[6:7], 2)[0, 0].tolist()
    )  # third tile: second row, first column


def test_flat_images_survive_both_ways():
    flat = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 6, 6)
    torch.testing.assert_close(unpack(pack(flat, 2), 2), flat)


def test_pixels_are_enlarged_before_preprocessing_and_floats_need_none():
    preprocessing = Preprocessing(mean=torch.tensor([0.5]), std=torch.tensor([0.2]), image_shape=(1, 4, 4))
    pixels = torch.randint(0, 256, (2, 1, 4, 4), dtype=torch.uint8)
    expected = preprocessing.forward(literally_unpacked(pixels.float() / 255, 2))
    torch.testing.assert_close(decode(pixels, preprocessing, 2), expected)
    torch.testing.assert_close(decode(preprocessing.forward(pixels), preprocessing, 2), expected)
    assert torch.equal(decode(pixels, preprocessing, 1), preprocessing.forward(pixels))


@pytest.mark.parametrize("factor", [0, 3, 5, 16])
def test_a_factor_that_does_not_divide_is_refused_with_those_that_do(factor):
    with pytest.raises(ConfigError, match=rf"factor of {factor} for images of 8x12.*1, 2, 4"):
        check_factor(factor, (3, 8, 12))


def test_tiles_that_no_memory_holds_are_refused_before_they_are_made():
    images = torch.zeros(1).expand(100, 1, 1024, 1024)
    with pytest.raises(ConfigError, match=r"100 images of factor 1024 unpack to \d{6} GB, more than this machine"):
        unpack(images, 1024)

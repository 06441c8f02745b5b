"""The gathered gradient, which a GPU takes, against the one that ``grid_sample`` scatters."""

import math

import pytest
import torch

from atom_plugin.transforms.resampling import resample, resample_gathering


def maps(groups, *, largest_factor, largest_angle, generator):
    """Scalings, rotations, shifts and mirrors at once, float64 (K, 2, 3)."""
    factor = largest_factor ** (2 * torch.rand(groups, generator=generator, dtype=torch.float64) - 1)
    angle = (2 * torch.rand(groups, generator=generator, dtype=torch.float64) - 1) * math.radians(largest_angle)
    shift = torch.randn(2, groups, generator=generator, dtype=torch.float64) / 4
    mirror = 1 - 2 * torch.randint(2, (groups,), generator=generator)
    rows = [
        [mirror * factor * angle.cos(), -factor * angle.sin(), shift[0]],
        [mirror * factor * angle.sin(), factor * angle.cos(), shift[1]],
    ]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


@pytest.mark.parametrize("size", [(8, 8), (9, 16), (28, 28)])
@pytest.mark.parametrize(("factor", "angle", "reach"), [(1.0, 0.0, 1), (1.2, 15.0, 3), (2.5, 45.0, 7)])
def test_images_and_gradient_are_those_of_grid_sample(size, factor, angle, reach):
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(20, 2, 3, *size, generator=generator, dtype=torch.float64).requires_grad_()
    weights = torch.randn(given.shape, generator=generator, dtype=torch.float64)
    theta = maps(20, largest_factor=factor, largest_angle=angle, generator=generator)
    plain, gathered = resample(given, theta, reach), resample_gathering(given, theta, reach)
    torch.testing.assert_close(gathered, plain, rtol=1e-12, atol=1e-12)
    expected, ours = (torch.autograd.grad((out * weights).sum(), given)[0] for out in (plain, gathered))
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("resampled", [resample, resample_gathering])
def test_a_place_shows_what_its_map_points_at(resampled):
    """x' = x + 1/2 of the half width: the columns move left by a quarter of the width, zeros follow."""
    given = torch.arange(24.0).view(1, 1, 1, 3, 8) + 1
    moved = resampled(given, torch.tensor([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]]), 1)
    expected = torch.cat([given[..., 2:], torch.zeros(1, 1, 1, 3, 2)], dim=4)
    torch.testing.assert_close(moved, expected)

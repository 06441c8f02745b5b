"""Each operation against a literal transcription, one image at a time; and what is shared by whom."""

import math

import pytest
import torch
from torch.nn import functional as F

from atom_plugin.errors import ConfigError
from atom_plugin.transforms.augmentation import DEFAULT_STRATEGY, OPERATIONS, Augmentation, augment

K, N, C, H, W = 5, 3, 3, 8, 6


def images(seed: int = 0, count: int = N) -> torch.Tensor:
    return torch.randn(K, count, C, H, W, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw(strategy: str, seed: int = 1):
    return Augmentation(strategy=strategy).draw(K, torch.Generator().manual_seed(seed))


def literal_color(x, u):
    x = x + (u[0] - 0.5) * 1.0
    grey = sum(x[c] for c in range(C)) / C
    x = torch.stack([(x[c] - grey) * (u[1] * 2.0) + grey for c in range(C)])
    mean = x.sum() / x.numel()
    return (x - mean) * (u[2] + 0.5) + mean


def literal_crop(x, u):
    dy = int(u[0] * (2 * int(H * 0.125 + 0.5) + 1)) - int(H * 0.125 + 0.5)
    dx = int(u[1] * (2 * int(W * 0.125 + 0.5) + 1)) - int(W * 0.125 + 0.5)
    out = torch.zeros_like(x)
    for h in range(H):
        for w in range(W):
            if 0 <= h + dy < H and 0 <= w + dx < W:
                out[:, h, w] = x[:, h + dy, w + dx]
    return out


def literal_cutout(x, u):
    tall, wide = int(H * 0.5 + 0.5), int(W * 0.5 + 0.5)
    top, left = int(u[0] * (H + (1 - tall % 2))) - tall // 2, int(u[1] * (W + (1 - wide % 2))) - wide // 2
    out = x.clone()
    for h in range(max(0, top), min(H, top + tall)):
        for w in range(max(0, left), min(W, left + wide)):
            out[:, h, w] = 0
    return out


def literal_flip(x, u):
    return torch.stack([x[:, :, w] for w in reversed(range(W))], dim=2) if u[0] < 0.5 else x


def resampled(x, theta):
    grid = F.affine_grid(torch.tensor([theta], dtype=x.dtype), [1, C, H, W], align_corners=False)
    return F.grid_sample(x[None], grid, align_corners=False)[0]


def literal_scale(x, u):
    sx, sy = (float(1 / 1.2 + v * (1.2 - 1 / 1.2)) for v in u[:2])
    return resampled(x, [[sx, 0, 0], [0, sy, 0]])


def literal_rotate(x, u):
    a = float((u[0] - 0.5) * 2 * 15 * math.pi / 180)
    return resampled(x, [[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0]])


LITERAL = {
    "color": literal_color,
    "crop": literal_crop,
    "cutout": literal_cutout,
    "flip": literal_flip,
    "scale": literal_scale,
    "rotate": literal_rotate,
}


def known_to_the_host(step, given):
    return step.apply(given)


def known_to_the_device(step, given):
    return augment(step.augmentation, given, step.plan(given.shape[-2:], given.dtype))


@pytest.mark.parametrize("applied", [known_to_the_host, known_to_the_device])
@pytest.mark.parametrize("strategy", [*OPERATIONS, DEFAULT_STRATEGY, "flip_crop", "cutout_rotate", "flip_crop_flip"])
def test_each_class_gets_its_operation_exactly(strategy, applied):
    for seed in range(6):
        step = draw(strategy, seed)
        given = images(seed)
        out = applied(step, given)
        names = strategy.split("_")
        for k in range(K):
            literal = LITERAL[names[step.choice[k]]]
            for n in range(N):
                torch.testing.assert_close(
                    out[k, n], literal(given[k, n], step.uniforms[k].double()), rtol=1e-6, atol=1e-6
                )


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 28, 28), (3, 7, 12)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_same_whoever_knows_the_draw_and_so_is_its_gradient(shape, dtype):
    generator = torch.Generator().manual_seed(4)
    step = Augmentation().draw(24, generator)
    given = torch.randn(24, 2, *shape, generator=generator, dtype=dtype).requires_grad_()
    weights = torch.randn(given.shape, generator=generator, dtype=dtype)
    results = [applied(step, given) for applied in (known_to_the_host, known_to_the_device)]
    gradients = [torch.autograd.grad((out * weights).sum(), given)[0] for out in results]
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    for one, other in (results, gradients):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("applied", [known_to_the_host, known_to_the_device])
def test_moving_by_whole_pixels_rounds_nothing_where_sides_are_powers_of_two(applied):
    given = torch.randn(40, 2, 3, 8, 16, generator=torch.Generator().manual_seed(0))
    step = Augmentation(strategy="crop_flip").draw(40, torch.Generator().manual_seed(1))
    out = applied(step, given)
    held = [float(value) for value in given.unique()]
    assert set(out.unique().tolist()) <= {0.0, *held}


def test_real_and_synthetic_of_a_class_share_one_draw():
    step = draw("_".join(OPERATIONS))
    real, synthetic = images(0, count=4), images(1, count=2)
    together = step.apply(torch.cat([real, synthetic], dim=1))
    torch.testing.assert_close(step.apply(real), together[:, :4])
    torch.testing.assert_close(step.apply(synthetic), together[:, 4:])


def test_classes_differ_and_a_seed_repeats():
    same = torch.ones(60, 1, C, H, W)
    augmentation = Augmentation()
    first = augmentation.draw(60, torch.Generator().manual_seed(3)).apply(same)
    again = augmentation.draw(60, torch.Generator().manual_seed(3)).apply(same)
    assert torch.equal(first, again)
    assert len(augmentation.draw(60, torch.Generator().manual_seed(3)).choice.unique()) == len(OPERATIONS)
    assert len({tuple(image.flatten().tolist()) for image in first}) > 30


def test_gradient_reaches_the_images():
    step = draw("_".join(OPERATIONS))
    assert torch.autograd.gradcheck(step.apply, images().requires_grad_())


def test_per_sample_mode_draws_for_every_image():
    batch = images()[:, 0].float()
    out = Augmentation(strategy="crop").per_sample(batch.expand(K, C, H, W), torch.Generator().manual_seed(0))
    assert out.shape == batch.shape
    step = Augmentation(strategy="crop").draw(K, torch.Generator().manual_seed(0))
    torch.testing.assert_close(out, step.apply(batch[:, None])[:, 0])


def test_none_is_none_and_unknown_is_refused():
    given = images()
    assert known_to_the_host(draw("none"), given) is given
    assert known_to_the_device(draw("none"), given) is given
    with pytest.raises(ConfigError, match="unknown augmentation 'blur'"):
        Augmentation(strategy="crop_blur")


def test_crop_and_cutout_reach_every_border():
    ones = torch.ones(400, 1, 1, 8, 8)
    for strategy in ("crop", "cutout"):
        out = Augmentation(strategy=strategy).draw(400, torch.Generator().manual_seed(0)).apply(ones)[:, 0, 0]
        for edge in (out[:, 0], out[:, -1], out[:, :, 0], out[:, :, -1]):
            assert (edge == 0).any()
        assert (out[:, 3, 3] == 1).any()


def test_a_loop_in_bfloat16_moves_images_by_no_other_fraction_of_a_pixel():
    step, given = draw("scale_rotate", 0), images(0).float()
    with torch.autocast("cpu", torch.bfloat16):
        narrow = step.apply(given)
    assert torch.equal(narrow, step.apply(given))

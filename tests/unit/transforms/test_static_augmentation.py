"""Augmentation with static shapes against the plain operations, given the same draw."""

import pytest
import torch

from atom_plugin.runtime.randomness import generator_for
from atom_plugin.transforms.augmentation import DEFAULT_STRATEGY, OPERATIONS, Augmentation
from atom_plugin.transforms.static_augmentation import augment


@pytest.mark.parametrize("strategy", [*OPERATIONS, DEFAULT_STRATEGY, "flip_crop_flip", "cutout_rotate", "none"])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 28, 28), (3, 7, 12)])
def test_it_equals_the_plain_operations_and_so_does_its_gradient(strategy, shape):
    groups, settings, generator = 24, Augmentation(strategy=strategy), generator_for(0, strategy)
    draw = settings.draw(groups, generator)
    for count in (1, 3):
        images = torch.randn(groups, count, *shape, generator=generator, dtype=torch.float64).requires_grad_()
        weights = torch.randn(images.shape, generator=generator, dtype=torch.float64)
        plain = draw.apply(images)
        static = augment(settings, images, draw.choice, draw.uniforms.double())
        torch.testing.assert_close(static, plain, rtol=1e-9, atol=1e-9)
        if strategy == "none":
            continue
        expected, ours = (torch.autograd.grad((out * weights).sum(), images)[0] for out in (plain, static))
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_float32_is_as_near_as_its_rounding():
    settings = Augmentation()
    draw = settings.draw(60, generator_for(1, "draw"))
    images = torch.randn(60, 2, 3, 32, 32, generator=generator_for(1, "images"))
    torch.testing.assert_close(
        augment(settings, images, draw.choice, draw.uniforms), draw.apply(images), rtol=1e-4, atol=2e-5
    )


def test_strong_settings_still_have_the_whole_gradient():
    settings = Augmentation(strategy="scale_rotate", scale=2.5, rotate=45.0)
    draw = settings.draw(40, generator_for(2, "draw"))
    images = torch.randn(40, 1, 1, 9, 16, generator=generator_for(2, "images"), dtype=torch.float64).requires_grad_()
    expected, ours = (
        torch.autograd.grad(out.square().sum(), images)[0]
        for out in (draw.apply(images), augment(settings, images, draw.choice, draw.uniforms.double()))
    )
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-8)

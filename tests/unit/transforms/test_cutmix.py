"""CutMix against the loops of its definition."""

from __future__ import annotations

import math

import pytest
import torch

from atom_plugin.runtime.randomness import generator_for
from atom_plugin.transforms.cutmix import draw_box, mix_images, mix_labels


def literal_box(kept: float, row: float, column: float, height: int, width: int) -> tuple[int, int, int, int]:
    """Yun et al. (2019), equation 2 in the released code's integers: rows y1 to y2, columns x1 to x2."""
    cut = math.sqrt(1.0 - kept)
    cut_w, cut_h = int(width * cut), int(height * cut)
    cx, cy = math.floor(column * width), math.floor(row * height)
    x1, x2 = min(max(cx - cut_w // 2, 0), width), min(max(cx + cut_w // 2, 0), width)
    y1, y2 = min(max(cy - cut_h // 2, 0), height), min(max(cy + cut_h // 2, 0), height)
    return y1, y2, x1, x2


def literal_mix(images, labels, box, classes):
    """Pixel by pixel; labels by the share of pixels that stayed."""
    count, _, height, width = images.shape
    mixed, shares = images.clone(), torch.zeros(count, classes)
    y1, y2, x1, x2 = box
    kept = 1 - (x2 - x1) * (y2 - y1) / (width * height)
    for i in range(count):
        partner = (i - 1) % count
        for y in range(y1, y2):
            for x in range(x1, x2):
                mixed[i, :, y, x] = images[partner, :, y, x]
        shares[i, labels[i]] += kept
        shares[i, labels[partner]] += 1 - kept
    return mixed, shares


@pytest.mark.parametrize("size", [(8, 8), (5, 9), (1, 1), (32, 32)])
def test_boxes_images_and_labels_are_those_of_the_definition(size):
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(4, 3, *size, generator=generator), torch.tensor([0, 2, 1, 1])
    for seed in range(20):
        _, kept, row, column = torch.rand(4, generator=generator_for(seed, "x")).tolist()
        box = draw_box(1.0, size, generator_for(seed, "x"))
        assert tuple(box.tolist()) == literal_box(kept, row, column, *size)
        expected_images, expected_shares = literal_mix(images, labels, box.tolist(), 3)
        assert torch.equal(mix_images(images, box), expected_images)
        assert torch.allclose(mix_labels(labels, box, size, 3), expected_shares, atol=1e-6)


def test_several_batches_are_each_mixed_by_their_own_box():
    images, labels = torch.rand(3, 4, 2, 6, 6), torch.randint(3, (3, 4))
    boxes = torch.stack([draw_box(1.0, (6, 6), generator_for(seed, "x")) for seed in range(3)])
    together = mix_images(images, boxes), mix_labels(labels, boxes, (6, 6), 3)
    for index in range(3):
        assert torch.equal(together[0][index], mix_images(images[index], boxes[index]))
        assert torch.equal(together[1][index], mix_labels(labels[index], boxes[index], (6, 6), 3))


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_a_batch_is_mixed_with_the_given_probability(probability):
    generator = torch.Generator().manual_seed(0)
    boxes = [draw_box(probability, (32, 32), generator) for _ in range(1000)]
    assert sum(bool(box.any()) for box in boxes) / 1000 == pytest.approx(probability, abs=0.05)


def test_an_unmixed_batch_keeps_its_images_and_labels():
    images, labels, box = torch.rand(3, 1, 4, 4), torch.tensor([2, 0, 1]), draw_box(0.0, (4, 4), torch.Generator())
    assert torch.equal(mix_images(images, box), images)
    assert torch.equal(mix_labels(labels, box, (4, 4), 3), torch.eye(3)[labels])


def test_the_mean_area_is_that_of_uniform_shares_less_what_lies_outside():
    """E[1 - lambda] is a half; a box around a uniform centre loses a part beyond the border, so less than that is mixed."""
    generator = torch.Generator().manual_seed(1)
    boxes = torch.stack([draw_box(1.0, (64, 64), generator) for _ in range(4000)]).double()
    area = ((boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2]) / 64**2).mean()
    # Along one axis a side s leaves s - s^2/4 of itself on average; with s^2 = u uniform: E[(s - u/4)^2].
    expected = 1 / 2 - 2 / 4 * (2 / 5) + 1 / 16 * (1 / 3)
    assert float(area) == pytest.approx(expected, abs=0.02)

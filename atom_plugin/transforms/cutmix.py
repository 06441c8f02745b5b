"""CutMix (Yun et al., 2019): a box of every image of a batch shows another image, and labels are mixed by its area.

One box serves a whole batch, as in the released code: with lambda drawn uniformly (the paper's Beta(1, 1)), its sides are
sqrt(1 - lambda) of the image's and its centre is any pixel. The box is cut at the image's border, and the label has the share
of the remaining area. The released code pairs a batch with a permutation of itself. Batches are already in random order, so the
previous image of the batch is an equally good partner, and no image is paired with itself.

Boxes are drawn on the host as four whole numbers. A batch that is not mixed has an empty box, so that a captured graph does the
same in both cases.
"""

from __future__ import annotations

import math

import torch


def draw_box(probability: float, size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """The box of one batch of images of ``size`` (H, W): int64 (4,), top, bottom, left and right, on the CPU.

    It covers the rows from top to before bottom, and columns likewise. With probability ``1 - probability`` all are 0.
    """
    chance, kept, *centre = torch.rand(4, generator=generator).tolist()
    if chance >= probability:
        return torch.zeros(4, dtype=torch.int64)
    edges = []
    for length, place in zip(size, centre, strict=True):
        middle, half = int(length * place), int(length * math.sqrt(1 - kept)) // 2
        edges += [max(0, middle - half), min(length, middle + half)]
    return torch.tensor(edges)


def mix_images(images: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
    """Batches (..., n, C, H, W) with their boxes (..., 4), on one device: within the box, each image shows the previous one."""
    rows = _covered(images.shape[-2], box[..., :2])
    columns = _covered(images.shape[-1], box[..., 2:])
    inside = rows.unsqueeze(-1) & columns.unsqueeze(-2)
    return torch.where(inside[..., None, None, :, :], images.roll(1, dims=-4), images)


def mix_labels(labels: torch.Tensor, box: torch.Tensor, size: tuple[int, int], classes: int) -> torch.Tensor:
    """The shares of ``classes``, float32 (..., n, classes), of images that :func:`mix_images` mixed; ``labels`` (..., n)."""
    return mix_targets((labels.unsqueeze(-1) == torch.arange(classes, device=labels.device)).float(), box, size)


def mix_targets(targets: torch.Tensor, box: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """As :func:`mix_labels`, of what images have for each class, float32 (..., n, classes)."""
    top, bottom, left, right = box.unbind(-1)
    share = ((bottom - top) * (right - left) / math.prod(size))[..., None, None]
    return torch.lerp(targets, targets.roll(1, dims=-2), share.float())


def _covered(length: int, edges: torch.Tensor) -> torch.Tensor:
    """(..., length), true from the first of ``edges`` (..., 2) to before the second."""
    places = torch.arange(length, device=edges.device)
    return (places >= edges[..., :1]) & (places < edges[..., 1:])

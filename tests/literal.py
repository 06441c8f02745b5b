"""The papers' equations (1) to (4) written out, image by image and number by number: oracles that several tests share."""

import torch

from atom_plugin.models.features import Features

CLASSES, LAYERS = 2, 3


def features(seed: int, per_class: int, *, dtype: torch.dtype = torch.float64) -> Features:
    generator = torch.Generator().manual_seed(seed)
    count = CLASSES * per_class
    shapes = [(4, 3, 2), (3, 2, 2), (2, 2, 1)]
    maps = tuple(torch.randn(count, *shape, generator=generator, dtype=dtype) for shape in shapes)
    embedding = torch.randn(count, 5, generator=generator, dtype=dtype)
    return Features(maps=maps, embedding=embedding, groups=CLASSES)


def with_gradient(given: Features) -> Features:
    maps = tuple(item.clone().requires_grad_() for item in given.maps)
    return Features(maps=maps, embedding=given.embedding.clone().requires_grad_(), groups=given.groups)


def spatial(image, p):  # eq. (1): sum over channels, one value per place
    channels, height, width = image.shape
    return [sum(abs(image[c, h, w]) ** p for c in range(channels)) for h in range(height) for w in range(width)]


def channel(image, p):  # eq. (2): sum over places, one value per channel
    channels, height, width = image.shape
    return [sum(abs(image[c, h, w]) ** p for h in range(height) for w in range(width)) for c in range(channels)]


def whole(image, _):
    channels, height, width = image.shape
    return [image[c, h, w] for h in range(height) for w in range(width) for c in range(channels)]


def unit(z):
    norm = sum(value * value for value in z) ** 0.5
    return [value / norm for value in z]


def class_mean(vectors, k):
    per_class = len(vectors) // CLASSES
    own = vectors[k * per_class : (k + 1) * per_class]
    return [sum(column) / len(own) for column in zip(*own, strict=True)]


def distance(real, synthetic):  # sum_k || E_T[.] - E_S[.] ||^2
    total = 0.0
    for k in range(CLASSES):
        for a, b in zip(class_mean(real, k), class_mean(synthetic, k), strict=True):
            total = total + (a - b) ** 2
    return total

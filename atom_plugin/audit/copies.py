"""Copies: the distance of each image of a set to the nearest member, compared with the distances of non-members.

Distances are root mean squares over values: of pixels on the [0, 1] scale, or of embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from atom_plugin.datasets import Split
from atom_plugin.distillation.embeddings import embed
from atom_plugin.models.convnet import ConvNet
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing

QUANTILE = 0.01
REAL = 1000  # images that are no members, at most, whose distances others are held against
_PART = 512  # images at a time


@dataclass(frozen=True, eq=False)
class Nearest:
    """The nearest member of each image: ``distances`` float32 (n,) and ``rows`` int64 (n,)."""

    distances: torch.Tensor
    rows: torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Copies:
    """``synthetic``: the nearest members of a set's images; ``real``: the nearest members of non-members."""

    synthetic: Nearest
    real: Nearest

    @property
    def threshold(self) -> float:
        """The distance to the nearest member that 1 % of the non-members are below."""
        return float(self.real.distances.quantile(QUANTILE))

    @property
    def count(self) -> int:
        """The number of the set's images below it."""
        return int((self.synthetic.distances <= self.threshold).sum())

    @property
    def ratio(self) -> float:
        """The median distance of the set's images, divided by that of the real ones."""
        return float(self.synthetic.distances.median() / self.real.distances.median())


def pixel_copies(sets: Sequence[SyntheticSet], members: Split, others: torch.Tensor) -> list[Copies]:
    """Copies for each set, in pixels; ``others`` are uint8 non-members (n, C, H, W)."""
    return _copies(sets, members, others, lambda images: images.flatten(1))


def embedding_copies(
    sets: Sequence[SyntheticSet], members: Split, others: torch.Tensor, network: ConvNet, preprocessing: Preprocessing
) -> list[Copies]:
    """As :func:`pixel_copies`, in the embeddings of ``network``, which takes images with ``preprocessing``."""
    return _copies(sets, members, others, lambda images: embed(network, images, preprocessing))


def _copies(
    sets: Sequence[SyntheticSet],
    members: Split,
    others: torch.Tensor,
    describe: Callable[[torch.Tensor], torch.Tensor],
) -> list[Copies]:
    """All in one pass through the members; ``describe`` makes rows (n, D) of images (n, C, H, W) on the [0, 1] scale."""
    asked = [others.float() / 255, *(each.true_colour().clamp(0, 1) for each in sets)]
    found = nearest(
        torch.cat([describe(images) for images in asked]),
        (describe(part.float() / 255) for part in members.parts(_PART)),
    )
    sizes = [len(images) for images in asked]
    real, *synthetic = map(Nearest, found.distances.split(sizes), found.rows.split(sizes))
    return [Copies(synthetic=each, real=real) for each in synthetic]


def distance_scores(images: Split, synthetic_set: SyntheticSet) -> np.ndarray[Any, Any]:
    """Minus the distance of each of ``images`` to the nearest image of the set, in pixels: float32 (n,).

    The attack that needs no network (Chen et al., "GAN-Leaks", 2020): an image that resembles one in the set is a member.
    """
    held = synthetic_set.true_colour().clamp(0, 1).flatten(1)
    found = [nearest(part.float().flatten(1) / 255, [held]).distances for part in images.parts(_PART)]
    return -torch.cat(found).numpy()


def nearest(queries: torch.Tensor, parts: Iterable[torch.Tensor]) -> Nearest:
    """For each of ``queries`` (n, D) the nearest row of all ``parts`` (k, D), which are numbered consecutively."""
    distances = torch.full((len(queries),), torch.inf)
    rows, first = torch.zeros(len(queries), dtype=torch.int64), 0
    for part in parts:
        place = torch.cdist(queries, part).argmin(1)
        # Again, directly: cdist's products lose what little a copy differs by.
        found = (queries - part[place]).square().mean(1).sqrt()
        closer = found < distances
        distances = torch.where(closer, found, distances)
        rows = torch.where(closer, place + first, rows)
        first += len(part)
    return Nearest(distances, rows)

"""The real images nearest to a set's images, pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from atom_plugin.datasets import Split
from atom_plugin.store.synthetic_set import SyntheticSet

_PART = 1024


def nearest_real(held: SyntheticSet, rows: Sequence[int], real: Split, *, count: int) -> torch.Tensor:
    """For each of the decoded set's images at ``rows`` the ``count`` nearest real ones of its class, uint8 (n, count, C, H, W).

    By squared distance after the set's preprocessing. If a class has fewer images, its nearest one is repeated. Keeps a part of
    the real images in memory at a time. A class without real images gets black images.
    """
    decoded = held.decoded()
    images, labels = decoded.images[rows].flatten(1), decoded.labels[rows]
    found = torch.zeros(len(rows), count, *real.image_shape, dtype=torch.uint8)
    for label in labels.unique().tolist():
        own = (labels == label).nonzero().flatten()
        members = (real.labels == label).nonzero().flatten()
        if not len(members):
            continue
        distances = torch.cat(
            [
                torch.cdist(images[own], held.preprocessing.forward(real.rows(part)).flatten(1))
                for part in members.split(_PART)
            ],
            dim=1,
        )
        kept = min(count, len(members))
        order = distances.topk(kept, dim=1, largest=False).indices
        order = torch.cat([order, order[:, :1].expand(-1, count - kept)], dim=1)
        for place, row in enumerate(own.tolist()):
            found[row] = real.rows(members[order[place]])
    return found

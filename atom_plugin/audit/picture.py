"""A picture of the images of a set that are nearest to members, with these members."""

from __future__ import annotations

from pathlib import Path

import torch

from atom_plugin.audit.result import Audit
from atom_plugin.store.pictures import grid

PAIRS = 10


def draw_pairs(audit: Audit, path: Path, *, force: bool) -> None:
    """Two rows for each set: its :data:`PAIRS` images nearest to members in pixels, and under each the member.

    Raises StoreError if writing fails.
    """
    names: list[str] = []
    images: list[torch.Tensor] = []
    members = audit.examined.source.train
    for each in audit.sets:
        nearest = each.pixels.synthetic
        chosen = nearest.distances.argsort(stable=True)[:PAIRS]
        images += [each.synthetic_set.true_colour()[chosen], members.rows(nearest.rows[chosen]).float() / 255]
        names += [each.name, "nearest members"]
    labels = torch.arange(len(images)).repeat_interleave(torch.tensor([len(each) for each in images]))
    title = "Images nearest to a member, in pixels"
    grid(torch.cat(images), labels, names, path, per_class=PAIRS, title=title, force=force)

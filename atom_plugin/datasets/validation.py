"""Hold out a part of the training images to compare options on, so that test images are only used for the final result."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from atom_plugin.datasets.source_data import SourceData, Split
from atom_plugin.errors import ConfigError, SourceError


def hold_out(data: SourceData, amount: float, *, seed: int = 0) -> SourceData:
    """``data`` with a part of each class's training images as ``validation``, removed from ``train``.

    ``amount`` is a fraction of the training images below 1, or their number from 1 on. Each class gives in proportion to its
    images, at least one and never all. A class is ordered by the sha256 of seed and index in the source, and its first images
    are held out: the same source has the same part on every machine. ``mean`` and ``std`` stay: a source's own are constants of
    the literature. Raises ConfigError for an amount that leaves a class without an image on either side, SourceError for a
    class of one image.
    """
    held_out = _chosen(data, amount, seed)
    kept = torch.ones(len(data.train), dtype=torch.bool)
    kept[held_out] = False
    digest = hashlib.sha256(f"{data.fingerprint} without {held_out.tolist()}".encode())
    return replace(
        data,
        train=part_of(data.train, kept.nonzero().flatten()),
        validation=part_of(data.train, held_out),
        fingerprint=digest.hexdigest(),
        options={**data.options, "validation": int(amount) if amount >= 1 else amount, "seed": seed},
    )


def part_of(split: Split, rows: torch.Tensor) -> Split:
    """Images ``rows`` (n,) of ``split``: copies of images in memory, else read from their file when asked for."""
    if split.mapped is not None:
        return _PartOfFile(split, rows)
    return Split(images=split.images[rows], labels=split.labels[rows])


class _PartOfFile(Split):
    """Some images of a mapped split. :attr:`images` reads all of them into memory; :meth:`rows` and :meth:`parts` do not."""

    _whole: Split
    _rows: torch.Tensor

    def __init__(self, whole: Split, rows: torch.Tensor) -> None:
        own = {"labels": whole.labels[rows], "mapped": whole.mapped, "_whole": whole, "_rows": rows}
        for name, value in own.items():
            object.__setattr__(self, name, value)

    @property
    def images(self) -> torch.Tensor:
        return self._whole.rows(self._rows)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._whole.image_shape

    def rows(self, indices: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        return self._whole.rows(self._rows[indices], out=out)

    def parts(self, size: int) -> Iterator[torch.Tensor]:
        return map(self._whole.rows, self._rows.split(size))


def _chosen(data: SourceData, amount: float, seed: int) -> torch.Tensor:
    """The rows to hold out, int64, in ascending order."""
    labels = data.train.labels
    counts = labels.bincount().tolist()
    if 1 in counts:
        raise SourceError(
            f"class {data.class_names[counts.index(1)]!r} has one training image, but a validation part needs two; add images "
            "or remove the class"
        )
    quotas = _quotas(counts, int(amount) if amount >= 1 else round(amount * len(labels)))
    chosen: list[int] = []
    for members, quota in zip(labels.argsort(stable=True).split(counts), quotas, strict=True):
        draw = {row: hashlib.sha256(f"validation/{seed}/{row}".encode()).digest() for row in members.tolist()}
        chosen += sorted(draw, key=lambda row: draw[row])[:quota]
    return torch.tensor(sorted(chosen))


def _quotas(counts: Sequence[int], total: int) -> list[int]:
    """How many images of each class add up to ``total``: at least one, in proportion, by the largest remainders."""
    classes = len(counts) - counts.count(0)
    if not classes <= total <= sum(counts) - classes:
        raise ConfigError(
            f"a validation part of {total} images does not suit {classes} classes with {sum(counts)} training "
            f"images, which each need one image on either side; take {classes} to {sum(counts) - classes}"
        )
    free = [max(0, count - 2) for count in counts]
    shares = [divmod((total - classes) * rest, max(1, sum(free))) for rest in free]
    quotas = [min(count, 1) + whole for count, (whole, _) in zip(counts, shares, strict=True)]
    by_remainder = sorted(range(len(counts)), key=lambda label: -shares[label][1])
    for label in by_remainder[: total - sum(quotas)]:
        quotas[label] += 1
    return quotas

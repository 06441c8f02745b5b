"""The layout of a folder in which some images cannot be read, less these."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from atom_plugin.datasets.layouts import Layout, split_by_seed
from atom_plugin.datasets.walking import ImageFile
from atom_plugin.errors import SourceError


def without(layout: Layout, paths: Collection[str], *, seed: int, test_fraction: float) -> Layout:
    """The layout that the folder would have without the files at ``paths``; a split by ``seed`` is made anew.

    Raises SourceError for a class that has no file left (in a split, if the folder has splits), or only one file to split.
    """
    if layout.seeded:
        pairs = sorted(zip(layout.train_labels + layout.test_labels, layout.train + layout.test, strict=True))
        labels, files = _readable(layout, pairs, paths, "")
        return split_by_seed(layout.root, layout.class_names, files, labels, seed=seed, test_fraction=test_fraction)
    train_labels, train = _readable(
        layout, list(zip(layout.train_labels, layout.train, strict=True)), paths, "training "
    )
    test_labels, test = _readable(layout, list(zip(layout.test_labels, layout.test, strict=True)), paths, "test ")
    return replace(layout, train=train, train_labels=train_labels, test=test, test_labels=test_labels)


def _readable(
    layout: Layout, pairs: Sequence[tuple[int, ImageFile]], paths: Collection[str], kind: str
) -> tuple[list[int], list[ImageFile]]:
    """Labels and files of ``pairs`` less ``paths``; ``kind`` names the images in the error for a class without any."""
    kept = [(label, file) for label, file in pairs if str(layout.root / file.path) not in paths]
    emptied = {label for label, _ in pairs} - {label for label, _ in kept}
    if emptied:
        raise SourceError(
            f"class {layout.class_names[min(emptied)]!r} has no {kind}image that can be read; repair some of its files, or "
            "remove its folder"
        )
    return [label for label, _ in kept], [file for _, file in kept]

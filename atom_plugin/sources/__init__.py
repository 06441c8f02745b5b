"""Image sources: names for sets of labelled real images, and the one call that loads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from atom_plugin.registry import Registry


@dataclass(frozen=True, kw_only=True)
class SourceRequest:
    """How to load a source. A source reads what concerns it.

    ``data_dir``: where the files are, or go; None means the source's default place.
    ``image_size``: side to resize to (square), None for the source's own.
    ``download``: fetch even where files are present. ``seed`` and ``test_fraction``: the split of an unsplit folder.
    ``cache_dir``: where decoded images are kept, None for the user's cache folder. ``workers``: decoding processes,
    None for one per core. ``progress``: show a bar on stderr.
    """

    data_dir: Path | None = None
    image_size: int | None = None
    download: bool = False
    seed: int = 0
    test_fraction: float = 0.2
    cache_dir: Path | None = None
    workers: int | None = None
    progress: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """``images`` uint8 (N, C, H, W) and ``labels`` int64 (N,)."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceData:
    """A loaded source: its splits as uint8 in memory, and what a set made from it must remember.

    ``mean`` and ``std`` are the constants the field uses for a known set ([0, 1] scale), else None: to be computed.
    ``fingerprint`` is a hex digest of the images and labels, or of the files they were decoded from.
    ``options`` are plain JSON: what :func:`load_source` needs, beside the name, to load the same again.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    fingerprint: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    options: dict[str, Any]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.train.images.shape[1:]
        return int(channels), int(height), int(width)


SourceLoader = Callable[[SourceRequest], SourceData]
SOURCES: Registry[SourceLoader] = Registry("image source", "atom_plugin.sources")


def load_source(name: str, request: SourceRequest) -> SourceData:
    """Load the source ``name``. Raises PluginError for an unknown name, SourceError where its images fail."""
    return SOURCES.get(name)(request)

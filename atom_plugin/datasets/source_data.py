"""A loaded source: its splits, their labels, and the metadata that a set made from it stores."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atom_plugin.errors import SourceError, require
from atom_plugin.runtime.text import flaw

if TYPE_CHECKING:
    # Not at run time: decoding processes import this package, and must not wait for torch.
    import torch

    from atom_plugin.datasets.mapped import MappedImages


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """``images`` uint8 (N, C, H, W) and ``labels`` int64 (N,). Raises SourceError for anything else.

    ``mapped`` is the file of which a large source's ``images`` are a read-only view: indexing copies rows. To go through all
    images use :meth:`parts`, which keeps each part in memory only while needed.
    """

    images: torch.Tensor
    labels: torch.Tensor
    mapped: MappedImages | None = None

    def __post_init__(self) -> None:
        import torch

        images, labels = self.images, self.labels
        require("images", images, torch.Tensor)
        require("labels", labels, torch.Tensor)
        if any(tensor.layout != torch.strided or tensor.is_meta for tensor in (images, labels)):
            raise SourceError(
                f"a source's images and labels must be dense tensors in memory, not {images.layout} on "
                f"{images.device}; call to_dense()"
            )
        if images.ndim != 4 or images.dtype != torch.uint8:
            raise SourceError(f"a source's images must be uint8 (N, C, H, W), not {images.dtype} {tuple(images.shape)}")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise SourceError(
                f"a source's labels must be int64 ({len(images)},), not {labels.dtype} {tuple(labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.images.shape[1:]
        return int(channels), int(height), int(width)

    @property
    def pixel_bytes(self) -> int:
        """Bytes of all images."""
        return len(self) * math.prod(self.image_shape)

    def rows(self, indices: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """Images ``indices`` (n,): uint8 (n, C, H, W), in ``out`` if given. SourceError if a file fails."""
        if self.mapped is not None:
            return self.mapped.rows(indices, out=out)
        import torch

        return torch.index_select(self.images, 0, indices, out=out)

    def parts(self, size: int) -> Iterator[torch.Tensor]:
        """All images in turn: uint8 (up to ``size``, C, H, W) each, valid until the next."""
        return iter(self.images.split(size)) if self.mapped is None else self.mapped.parts(size)


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceData:
    """A loaded source: its splits as uint8, in memory or mapped from a file, and the metadata that a set made from it stores.

    ``mean`` and ``std`` are the usual constants of a known set ([0, 1] scale), else None: to be computed. ``validation`` is the
    part of the training images that is held out of ``train``, None if none is. ``fingerprint`` is the sha256 of images, labels,
    class names, and the choice of held-out images: the same wherever the files decode to the same pixels. ``options`` are plain
    JSON: what :func:`~atom_plugin.datasets.reload_source` needs, besides the name, to load the same again. Raises SourceError
    if the splits do not fit each other or the class names.
    """

    name: str
    train: Split
    test: Split
    validation: Split | None = None
    class_names: tuple[str, ...]
    fingerprint: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    options: dict[str, Any]

    def __post_init__(self) -> None:
        kinds: dict[str, type] = {"train": Split, "test": Split, "class_names": tuple, "options": dict}
        for field, kind in kinds.items():
            require(field, getattr(self, field), kind)
        if self.train.image_shape != self.test.image_shape:
            raise SourceError(
                f"{self.name}: training images are {self.train.image_shape}, test images {self.test.image_shape}; they must "
                "have one shape"
            )
        for name in self.class_names:
            # Found out here rather than when the finished set is stored.
            if why := flaw(name):
                raise SourceError(f"{self.name}: a set cannot store the class name {name!r}: {why}; rename that class")
        for called, split in (("training", self.train), ("test", self.test)):
            if not len(split):
                raise SourceError(f"{self.name}: the {called} split has no images")
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= len(self.class_names):
                raise SourceError(
                    f"{self.name}: {called} labels run from {low} to {high}, but there are "
                    f"{len(self.class_names)} class names"
                )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.train.image_shape

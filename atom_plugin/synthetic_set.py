"""The synthetic set: a few images per class, with the preprocessing they live in and where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from atom_plugin.errors import ConfigError
from atom_plugin.preprocessing import Preprocessing

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What made a set. All values are plain JSON.

    ``method`` is the matcher's or the selection's name; ``config`` everything needed to make the set again;
    ``source`` names the image source, its options and its fingerprint, so that its test split can be found again;
    ``versions`` maps package to version; ``final_loss`` is None for selected (real) images.
    """

    method: str
    seed: int
    config: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    iterations: int = 0
    final_loss: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class SyntheticSet:
    """Synthetic images after preprocessing, with their labels.

    ``images`` is float32 (N, C, H, W); ``labels`` int64 (N,), class ids of the source, class-major;
    ``class_names[id]`` names every class of the source, also those a subset no longer holds.
    """

    images: torch.Tensor
    labels: torch.Tensor
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    provenance: Provenance

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.dtype != torch.float32:
            raise ConfigError(f"images must be float32 (N, C, H, W), not {images.dtype} {tuple(images.shape)}")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ConfigError(f"labels must be int64 ({len(images)},), not {labels.dtype} {tuple(labels.shape)}")
        if tuple(images.shape[1:]) != self.preprocessing.image_shape:
            raise ConfigError(
                f"images of shape {tuple(images.shape[1:])} do not fit a preprocessing fitted on "
                f"{self.preprocessing.image_shape}"
            )
        if len(labels) and not (0 <= int(labels.min()) and int(labels.max()) < len(self.class_names)):
            raise ConfigError(
                f"labels run from {int(labels.min())} to {int(labels.max())}, but there are "
                f"{len(self.class_names)} class names"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> list[int]:
        """The class ids that have images, sorted."""
        return [int(label) for label in self.labels.unique()]

    @property
    def ipc(self) -> int:
        """Images per class: the smallest count over the classes held."""
        return int(self.labels.unique(return_counts=True)[1].min()) if len(self) else 0

    def true_colour(self) -> torch.Tensor:
        """The images with the preprocessing undone, float32 (N, C, H, W), not clamped to [0, 1]."""
        return self.preprocessing.inverse(self.images)

    def subset(self, classes: Sequence[int]) -> SyntheticSet:
        """Only the images of the given class ids; labels keep their ids. Raises ConfigError for an absent class."""
        absent = sorted(set(classes) - set(self.classes))
        if absent:
            raise ConfigError(f"the set holds no images of class {absent}; it holds {self.classes}")
        keep = torch.isin(self.labels, torch.tensor(sorted(set(classes))))
        return replace(self, images=self.images[keep], labels=self.labels[keep])

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write to one HDF5 file, atomically. See :func:`atom_plugin.store.write`."""
        from atom_plugin import store

        store.write(self, path, force=force)

    @classmethod
    def load(cls, path: str | Path) -> SyntheticSet:
        """Read a whole HDF5 set into memory. See :func:`atom_plugin.store.read`."""
        from atom_plugin import store

        return store.read(path)

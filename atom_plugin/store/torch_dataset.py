"""Sets as ``torch.utils.data.Dataset``: images in memory, and a lazy view of a file, also for DataLoader workers."""

from __future__ import annotations

import copy
import os
from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.store.hdf5_reader import Identity, identity
from atom_plugin.store.provenance import Provenance
from atom_plugin.store.soft_labels import SoftLabels
from atom_plugin.transforms.packing import decode
from atom_plugin.transforms.preprocessing import Preprocessing

Item = tuple[torch.Tensor, int | torch.Tensor]


class LabelledImages(Dataset[Item]):
    """Items are (float32 (C, H, W), int class id); ``labels`` is int64 (N,), ``soft_labels`` are those of a set that has some.

    :meth:`with_soft_targets` has these in the place of class ids.
    """

    def __init__(self, labels: torch.Tensor, soft_labels: SoftLabels | None = None) -> None:
        self.labels = labels
        self.soft_labels = soft_labels
        self._targets: torch.Tensor | None = None

    def with_soft_targets(self, temperature: float = 1.0) -> LabelledImages:
        """The same with items (image, float32 (classes,)), as :meth:`SoftLabels.targets` has them. Raises ConfigError for a set
        without soft labels.
        """
        if self.soft_labels is None:
            raise ConfigError("the set has no soft labels, expected some to take as targets; leave soft targets out")
        changed = copy.copy(self)
        changed._targets = self.soft_labels.targets(temperature)
        return changed

    @abstractmethod
    def gather(self, indices: list[int]) -> torch.Tensor:
        """Copies of the images at ``indices``, float32 (n, C, H, W)."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Item]:
        # DataLoader asks for a whole batch through this name: one gather instead of one per image.
        targets = self.labels[indices].tolist() if self._targets is None else self._targets[indices]
        return list(zip(self.gather(indices), targets, strict=True))


class HeldImages(LabelledImages):
    """Images in memory, float32 (N, C, H, W), unchanged."""

    def __init__(self, labels: torch.Tensor, soft_labels: SoftLabels | None, images: torch.Tensor) -> None:
        super().__init__(labels, soft_labels)
        self._images = images

    def gather(self, indices: list[int]) -> torch.Tensor:
        """Copies of the images at ``indices``, float32 (n, C, H, W)."""
        return self._images[indices]


class StoredImages(LabelledImages):
    """The images of a file that :func:`atom_plugin.store.open_dataset` verified, decoded; items as in ``LabelledImages``.

    ``labels`` and ``soft_labels`` are those of the decoded images, and an index of a packed set counts these: item i is a tile
    of stored image i // factor^2. ``shape`` is the shape of the stored images, and ``dtype`` numpy's name of their type.

    Pixels are mapped on first access in each process, straight from the contiguous bytes: no HDF5 state crosses a fork, and a
    pickled copy maps the file again. Raises StoreError if the file was replaced since it was opened.
    """

    def __init__(
        self,
        path: Path,
        *,
        dtype: str,
        shape: tuple[int, ...],
        offset: int,
        file_identity: Identity,
        factor: int,
        labels: torch.Tensor,
        soft_labels: SoftLabels | None,
        class_names: tuple[str, ...],
        preprocessing: Preprocessing,
        provenance: Provenance,
    ) -> None:
        tiles = factor**2
        soft = None if soft_labels is None else soft_labels.repeated(tiles)
        super().__init__(labels.repeat_interleave(tiles), soft)
        self.path = path
        self.shape = shape
        self.factor = factor
        self.class_names = class_names
        self.preprocessing = preprocessing
        self.provenance = provenance
        self._dtype = dtype
        self._offset = offset
        self._identity = file_identity
        self._mapped: npt.NDArray[Any] | None = None

    def gather(self, indices: list[int]) -> torch.Tensor:
        """Copies of the images at ``indices``, float32 (n, C, H, W)."""
        if self._mapped is None:
            self._mapped = self._map()
        tiles = self.factor**2
        places = torch.as_tensor(indices, dtype=torch.int64)
        places = torch.where(places < 0, places + len(self), places)
        if len(places) and int(places.min()) < 0:
            raise IndexError(f"index {min(indices)} is out of range for {len(self)} images")
        stored, inverse = (places // tiles).unique(return_inverse=True)
        rows = self._mapped[stored.numpy()]
        images = torch.from_numpy(rows.astype(rows.dtype.newbyteorder("="), copy=False))
        decoded = decode(images, self.preprocessing, self.factor)
        return decoded[inverse * tiles + places % tiles]

    def __getstate__(self) -> dict[str, Any]:
        # A pickled mapping would carry all pixels.
        return self.__dict__ | {"_mapped": None}

    def _map(self) -> npt.NDArray[Any]:
        if 0 in self.shape:
            return np.empty(self.shape, self._dtype)
        try:
            with self.path.open("rb") as file:
                if identity(os.fstat(file.fileno())) != self._identity:
                    raise StoreError(f"{self.path}: was replaced or changed since it was opened; open it again")
                return np.memmap(file, dtype=self._dtype, mode="r", offset=self._offset, shape=self.shape)
        except OSError as error:
            raise StoreError(
                f"{self.path}: cannot be read any more ({error.strerror or error}); put it back or open another"
            ) from error

"""Sets as ``torch.utils.data.Dataset``: images in memory, and a lazy view of a file, also for DataLoader workers."""

from __future__ import annotations

import os
from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from atom_plugin.errors import StoreError
from atom_plugin.store.hdf5_reader import Identity, identity
from atom_plugin.store.provenance import Provenance
from atom_plugin.transforms.preprocessing import Preprocessing


class LabelledImages(Dataset[tuple[torch.Tensor, int]]):
    """Items are (float32 (C, H, W), int class id); ``labels`` is int64 (N,)."""

    def __init__(self, labels: torch.Tensor) -> None:
        self.labels = labels

    @abstractmethod
    def gather(self, indices: list[int]) -> torch.Tensor:
        """Copies of the images at ``indices``, float32 (n, C, H, W)."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, int]]:
        # DataLoader asks for a whole batch through this name: one gather instead of one per image.
        return list(zip(self.gather(indices), self.labels[indices].tolist(), strict=True))


class HeldImages(LabelledImages):
    """Images in memory, float32 (N, C, H, W), as they are."""

    def __init__(self, labels: torch.Tensor, images: torch.Tensor) -> None:
        super().__init__(labels)
        self._images = images

    def gather(self, indices: list[int]) -> torch.Tensor:
        """Copies of the images at ``indices``, float32 (n, C, H, W)."""
        return self._images[indices]


class StoredImages(LabelledImages):
    """The images of a file that :func:`atom_plugin.store.open_dataset` verified; items as in ``LabelledImages``.

    Pixels are mapped on first access in each process, straight from the contiguous bytes: no HDF5 state crosses a
    fork, and a pickled copy maps anew. Raises StoreError where the file was replaced since it was opened.
    """

    def __init__(
        self,
        path: Path,
        *,
        shape: tuple[int, ...],
        offset: int,
        file_identity: Identity,
        labels: torch.Tensor,
        class_names: tuple[str, ...],
        preprocessing: Preprocessing,
        provenance: Provenance,
    ) -> None:
        super().__init__(labels)
        self.path = path
        self.shape = shape
        self.class_names = class_names
        self.preprocessing = preprocessing
        self.provenance = provenance
        self._offset = offset
        self._identity = file_identity
        self._mapped: npt.NDArray[np.float32] | None = None

    def gather(self, indices: list[int]) -> torch.Tensor:
        """Copies of the images at ``indices``, float32 (n, C, H, W)."""
        if self._mapped is None:
            self._mapped = self._map()
        return torch.from_numpy(np.asarray(self._mapped[indices], dtype=np.float32))

    def __getstate__(self) -> dict[str, Any]:
        # A pickled mapping would carry all pixels.
        return self.__dict__ | {"_mapped": None}

    def _map(self) -> npt.NDArray[np.float32]:
        if 0 in self.shape:
            return np.empty(self.shape, np.float32)
        try:
            with self.path.open("rb") as file:
                if identity(os.fstat(file.fileno())) != self._identity:
                    raise StoreError(f"{self.path}: was replaced or changed since it was opened; open it again")
                return np.memmap(file, dtype="<f4", mode="r", offset=self._offset, shape=self.shape)
        except OSError as error:
            raise StoreError(
                f"{self.path}: cannot be read any more ({error.strerror or error}); put it back or open another"
            ) from error

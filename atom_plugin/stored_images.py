"""A lazy view of a set's file, for sets that should not lie in memory and for DataLoader workers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from atom_plugin.errors import StoreError
from atom_plugin.preprocessing import Preprocessing
from atom_plugin.synthetic_set import LabelledImages, Provenance

Identity = tuple[int, int, int]


def identity(status: os.stat_result) -> Identity:
    """What tells a file from another, or from a later one of the same name."""
    return status.st_ino, status.st_size, status.st_mtime_ns


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

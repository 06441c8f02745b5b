"""uint8 images in a file: as a memory-mapped tensor, or read by index without a mapping."""

from __future__ import annotations

import mmap
import os
import warnings
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from atom_plugin.errors import SourceError

# Reads in flight: a disk answers many small reads at once far sooner than one after the other.
_READERS = 8


class MappedImages:
    """``count`` images of ``image_shape`` (C, H, W), contiguous from byte ``offset`` of ``path``.

    :attr:`tensor` is the mapped file as uint8 (N, C, H, W), read-only: indexing and slicing read only the pages they touch.
    Writing to it ends the process. Touched pages stay in the system's page cache, and count as this process's shared memory
    (RssFile) until :meth:`release`. :meth:`rows` reads into its own memory, without the mapping.

    The file stays open: it may be renamed, replaced or deleted meanwhile, but not truncated. Raises SourceError if it ends too
    early.
    """

    def __init__(self, path: Path, *, offset: int, count: int, image_shape: tuple[int, int, int]) -> None:
        self._path, self._offset, self._shape = path, offset, image_shape
        self._row_bytes = image_shape[0] * image_shape[1] * image_shape[2]
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._descriptor)
        end = offset + count * self._row_bytes
        if os.fstat(self._descriptor).st_size < end:
            raise SourceError(f"{path} is truncated: it should have at least {end} bytes; remove it and make it again")
        self._map = mmap.mmap(self._descriptor, end, access=mmap.ACCESS_READ)
        with warnings.catch_warnings():
            # torch has no read-only tensors; a private writable mapping would be charged to memory in full.
            warnings.filterwarnings("ignore", "The given buffer is not writable")
            pixels = torch.frombuffer(self._map, dtype=torch.uint8, offset=offset, count=count * self._row_bytes)
        self.tensor: torch.Tensor = pixels.view(count, *image_shape)

    def rows(self, indices: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """Images ``indices`` (n,), uint8 (n, C, H, W), into ``out`` if given; raises SourceError if reading fails."""
        if out is None:
            out = torch.empty(len(indices), *self._shape, dtype=torch.uint8)
        if not hasattr(os, "preadv"):  # Windows
            return torch.index_select(self.tensor, 0, indices, out=out)
        buffers = out.numpy().reshape(-1).data
        places = indices.tolist()
        share = -(-len(places) // _READERS)
        with ThreadPoolExecutor(_READERS) as readers:
            tasks = [
                readers.submit(self._read, places[start : start + share], buffers[start * self._row_bytes :])
                for start in range(0, len(places), share or 1)
            ]
        for task in tasks:
            task.result()
        return out

    def parts(self, size: int) -> Iterator[torch.Tensor]:
        """All images in turn, uint8 (up to ``size``, C, H, W) each; maps no more of the file at a time."""
        for part in self.tensor.split(size):
            yield part
            self.release()

    def release(self) -> None:
        """Return the mapped pages to the system; they are read again when the tensor is touched."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def _read(self, places: list[int], buffer: memoryview) -> None:
        size = self._row_bytes
        for number, place in enumerate(places):
            start = number * size
            try:
                got = os.preadv(self._descriptor, [buffer[start : start + size]], self._offset + place * size)
            except OSError as error:
                raise SourceError(
                    f"{self._path} cannot be read ({error.strerror}); is its disk still there?"
                ) from error
            if got != size:
                raise SourceError(f"{self._path} became shorter while it was in use; start again")

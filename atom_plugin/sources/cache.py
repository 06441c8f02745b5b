"""Decoded images kept on disk as uint8 HDF5, under a key that the files' names, sizes and times make."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from pathlib import Path

import h5py
import numpy as np

from atom_plugin.atomic import temporary_beside
from atom_plugin.sources.layouts import Layout
from atom_plugin.sources.pixels import DECODING_VERSION, Pixels

_FORMAT = "atom_plugin decoded images 1"
_logger = logging.getLogger("atom_plugin")


def cache_key(layout: Layout, image_size: int | None) -> str:
    """Hex digest of all that decides the cached images: cheap, from ``stat`` alone, and blind to where the root is."""
    header = [_FORMAT, DECODING_VERSION, image_size, layout.class_names, layout.train_labels, layout.test_labels]
    digest = hashlib.sha256(json.dumps(header).encode())
    for file in (*layout.train, *layout.test):
        digest.update(f"{file.path}\0{file.size}\0{file.mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def read(path: Path) -> tuple[Pixels, str] | None:
    """The cached images (N, C, H, W) and the digest stored with them; None where there is no sound cache.

    The caller compares the digest with the images', so a flipped bit is found too.
    """
    try:
        if not path.exists():
            return None
        # Caches are only ever replaced whole, so no lock is needed; some network file systems have none.
        with h5py.File(path, "r", locking=False) as file:
            stored = file["images"]
            images: Pixels = np.empty(stored.shape, np.uint8)
            stored.read_direct(images)
            return images, str(file.attrs["digest"])
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        _logger.info("the image cache %s is damaged (%s); decoding again", path, error)
        return None


def write(path: Path, images: Pixels, digest: str) -> None:
    """Write atomically, so that two processes can do so at once. A cache that cannot be written is only a warning."""
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(temporary, "x", locking=False) as file:
            file.create_dataset("images", data=images)
            file.attrs["format"] = _FORMAT
            file.attrs["digest"] = digest
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        _logger.warning("decoded images are not cached in %s (%s); they will be decoded again", path.parent, error)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()

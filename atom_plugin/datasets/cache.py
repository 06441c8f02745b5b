"""A cache of decoded images on disk: packed files, with a key from names, sizes and times of the image files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

from atom_plugin.datasets.layouts import Layout
from atom_plugin.datasets.packed import FORMAT, VERSION, Contents, Packed
from atom_plugin.datasets.packed import read as read_packed
from atom_plugin.datasets.packed_writer import Packer, alone
from atom_plugin.datasets.pixels import DECODING_VERSION, Decoding, Pixels
from atom_plugin.errors import SourceError
from atom_plugin.runtime.files import temporary_beside

_logger = logging.getLogger("atom_plugin")


def cache_key(layout: Layout, decoding: Decoding) -> str:
    """Hex digest of everything that determines the cached images: from ``stat`` alone, independent of the root's place."""
    header = [
        *(FORMAT, VERSION, DECODING_VERSION, decoding.image_size),
        *([] if decoding.bit_depth == 16 else [decoding.bit_depth]),
        *(layout.class_names, layout.train_labels, layout.test_labels),
    ]
    digest = hashlib.sha256(json.dumps(header).encode())
    for file in (*layout.train, *layout.test):
        digest.update(f"{file.path}\0{file.size}\0{file.mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def read(path: Path) -> Packed | None:
    """The cached images; None if there is no valid cache."""
    try:
        return read_packed(path) if path.exists() else None
    except (SourceError, OSError) as error:
        _logger.info("the image cache cannot be used (%s); decoding again", error)
        return None


def write(path: Path, images: Pixels, contents: Contents) -> None:
    """Write atomically, so that two processes may do so at once. A cache that cannot be written causes only a warning."""
    temporary = temporary_beside(path)
    try:
        with Packer(temporary, contents) as packer:
            packer.put(images)
            packer.finish(path)
    except SourceError as error:
        _logger.warning("decoded images are not cached in %s (%s); they will be decoded again", path.parent, error)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def fill(path: Path, contents: Contents, decode: Callable[[Callable[[Pixels], None], int], None]) -> Packed:
    """Write ``path`` while ``decode(put, skip)`` decodes, in bounded memory.

    ``decode`` passes all images except the first ``skip`` to ``put``, in order. After a stop or a kill, a later call continues.
    Errors of ``decode`` about the images pass through. Of several processes one writes, and the others wait. Raises SourceError
    if the file cannot be written, because images that do not fit in memory need it.
    """
    unfinished = path.parent / f".{path.name}.unfinished"
    with alone(unfinished):
        found = read(path)  # from whoever was alone with it before
        if found is not None:
            return found
        with Packer(unfinished, contents) as packer:
            if packer.done:
                _logger.info("continuing after %d decoded images in %s", packer.done, unfinished)
            try:
                decode(packer.put, packer.done)
            except SourceError:
                packer.discard()
                raise
            packer.finish(path)
    return read_packed(path)

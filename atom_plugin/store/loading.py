"""Load a set in one line, and the transform for test images of its networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atom_plugin.datasets.pixels import MAX_PIXELS, Decoding
from atom_plugin.errors import require
from atom_plugin.store.synthetic_set import SyntheticSet, read
from atom_plugin.transforms.own_images import OwnImages


def load(path: str | Path) -> SyntheticSet:
    """The set in a file, with every check. Raises StoreError for a file that is not a set, or is damaged."""
    require("path", path, str | Path)
    return read(path)


def preprocess_for(of: str | Path | SyntheticSet) -> OwnImages:
    """The transform for a user's own images with this set, or with the set in this file.

    It takes an image of any size (a file name, a Pillow image, a uint8 tensor) and returns a preprocessed tensor. Raises
    StoreError as :func:`load`.
    """
    held = of if isinstance(of, SyntheticSet) else load(of)
    return OwnImages(preprocessing=held.preprocessing, decoding=decoding_of(held.provenance.source))


def decoding_of(source: Mapping[str, Any]) -> Decoding:
    """How the image files of a set's ``source`` were decoded, as far as the set says."""
    options = source.get("options") or {}
    depth, most = options.get("bit_depth"), options.get("max_pixels")
    return Decoding(
        bit_depth=depth if type(depth) is int and 8 <= depth <= 16 else 16,
        max_pixels=most if type(most) is int and most > 0 else MAX_PIXELS,
    )

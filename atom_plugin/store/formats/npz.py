"""A numpy .npz of everything in a set, read back without loss; numpy.load needs no pickle for it.

Keys: images, labels, class_names, mean, std, with whitening zca_mean, zca_matrix and zca_eps; with soft labels
soft_labels and soft_label_kind, and learned_lr; pixels ("preprocessed" or "true-colour") and provenance (JSON).
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atom_plugin.errors import StoreError
from atom_plugin.runtime.files import refuse_existing, write_bytes
from atom_plugin.store.formats.archives import refuse_bomb
from atom_plugin.store.formats.context import ImportContext
from atom_plugin.store.formats.own_fields import (
    number_fields,
    parsed_json,
    provenance_field,
    set_of,
    text_fields,
)
from atom_plugin.store.synthetic_set import SyntheticSet

HOLDS_SOFT_LABELS = True
KIND = "npz"


def write(synthetic_set: SyntheticSet, path: Path, *, force: bool, pixels: str | None = None) -> list[str]:
    """``pixels``: preprocessed, as stored (the default), or true-colour, the preprocessing undone and not clamped."""
    tensors, chosen = number_fields(synthetic_set, pixels)
    refuse_existing(path, force=force)
    contents: dict[str, Any] = {key: tensor.numpy() for key, tensor in tensors.items()}
    # Text is stored as numpy text: reading arrays of Python objects would need a pickle.
    contents["class_names"] = np.array(synthetic_set.class_names, dtype=str)
    contents |= {name: np.array(text) for name, text in text_fields(synthetic_set, chosen).items()}
    contents |= {"provenance": np.array(json.dumps(provenance_field(synthetic_set)))}
    buffer = io.BytesIO()
    np.savez(buffer, **contents)
    write_bytes(path, buffer.getbuffer(), force=force)
    return []


def read(path: Path, context: ImportContext) -> SyntheticSet:
    """An export of this package, complete. Arrays of Python objects are always refused."""
    found: dict[str, Any] = dict(load_arrays(path, context))
    for key, array in found.items():
        if array.dtype.kind == "U":
            found[key] = array.tolist()
        elif array.dtype.kind in "fiu":
            found[key] = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    if isinstance(found.get("provenance"), str):
        found["provenance"] = parsed_json(found["provenance"], str(path))
    return set_of(found, str(path), context)


def load_arrays(path: Path, context: ImportContext) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a .npz by name. Raises StoreError for another file, and for one that unpacks to a far larger size."""
    with context.opened(path) as file:
        refuse_bomb(path, file)
        try:
            with np.load(file, allow_pickle=False) as arrays:
                found = {key: arrays[key] for key in arrays.files}
        except Exception as error:  # zipfile's, numpy's and zlib's errors, each in its own kind
            what = " ".join(str(error).split())[:160] or type(error).__name__
            raise StoreError(f"{path}: cannot be read as .npz ({what}); it is damaged, or not this format") from error
    for key, array in found.items():
        if not isinstance(array, np.ndarray):
            raise StoreError(f"{path}: is a zip archive, but {key!r} in it is not an array; try another --format")
    return found

"""A torch.save'd dict of everything in a set, read back without loss by torch.load(path, weights_only=True).

The keys of npz, numbers as tensors, class_names a list and provenance a dict.
"""

from __future__ import annotations

from pathlib import Path

from atom_plugin.errors import StoreError
from atom_plugin.runtime.files import refuse_existing, write_bytes
from atom_plugin.store.formats.context import ImportContext
from atom_plugin.store.formats.own_fields import fitting_format, number_fields, provenance_field, set_of, text_fields
from atom_plugin.store.formats.tensors import dumps, load
from atom_plugin.store.synthetic_set import SyntheticSet

HOLDS_SOFT_LABELS = True
KIND = "a torch file"


def write(synthetic_set: SyntheticSet, path: Path, *, force: bool, pixels: str | None = None) -> list[str]:
    """``pixels``: preprocessed, as stored (the default), or true-colour, the preprocessing undone and not clamped."""
    tensors, chosen = number_fields(synthetic_set, pixels)
    refuse_existing(path, force=force)
    names = list(synthetic_set.class_names)
    texts = text_fields(synthetic_set, chosen)
    held = {**tensors, "class_names": names, **texts, "provenance": provenance_field(synthetic_set)}
    write_bytes(path, dumps(held), force=force)
    return []


def read(path: Path, context: ImportContext, *, trust_pickle: bool = False) -> SyntheticSet:
    """An export of this package, complete."""
    found = load(path, context, trust_pickle=trust_pickle)
    if not isinstance(found, dict):
        raise StoreError(
            f"{path}: found a {type(found).__name__}, expected a dict from an export of this package; "
            f"{fitting_format(found)}"
        )
    return set_of(found, str(path), context)

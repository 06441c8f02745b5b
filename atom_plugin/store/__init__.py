"""Synthetic sets and their files: one self-describing HDF5 file with checksum per set. docs/file-format.md is normative."""

from atom_plugin.store.concatenation import concatenate
from atom_plugin.store.files import SetHeader, open_dataset, read_header, verify
from atom_plugin.store.provenance import Provenance
from atom_plugin.store.soft_labels import SoftLabels
from atom_plugin.store.synthetic_set import SyntheticSet, read, write

__all__ = [
    "Provenance",
    "SetHeader",
    "SoftLabels",
    "SyntheticSet",
    "concatenate",
    "open_dataset",
    "read",
    "read_header",
    "verify",
    "write",
]

"""The parts of a set's file that a run which extends it keeps."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from atom_plugin.store import read_header


def history_of(path: str | Path) -> tuple[dict[str, Any], ...]:
    """How the set at ``path`` came about, oldest part first: provenances as plain values, without nested history.

    Each part also has the checksum of its file (``sha256``) and its images by class (``images``).
    """
    header = read_header(path)
    made = header.provenance
    config = {name: value for name, value in made.config.items() if name != "extended"}
    images = {header.class_names[label]: count for label, count in header.counts.items()}
    part = {**asdict(made), "config": config, "sha256": header.checksum, "images": images}
    return (*made.config.get("extended", ()), part)


def form_of(path: str | Path) -> dict[str, Any]:
    """The config fields for packing, storage and preprocessing of the images at ``path``. Raises StoreError."""
    header = read_header(path)
    plain = not any(header.mean) and all(value == 1 for value in header.std)
    return {
        "factor": header.factor,
        "storage": header.storage,
        "standardise": not plain,
        "zca_eps": header.zca_eps,
    }

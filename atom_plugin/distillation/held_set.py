"""What the file of a set says that a run which grows it keeps to and hands on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from atom_plugin.store import read_header


def history_of(path: str | Path) -> tuple[dict[str, Any], ...]:
    """What came when in the set at ``path``, the oldest first: provenances as plain values, without the history in them.

    Of each also the checksum of its file (``sha256``) and its images by class (``images``).
    """
    header = read_header(path)
    made = header.provenance
    config = {name: value for name, value in made.config.items() if name != "extended"}
    images = {header.class_names[label]: count for label, count in header.counts.items()}
    part = {**asdict(made), "config": config, "sha256": header.checksum, "images": images}
    return (*made.config.get("extended", ()), part)


def form_of(path: str | Path) -> dict[str, Any]:
    """The fields of a config that say how the images at ``path`` are packed, stored and preprocessed. Raises StoreError."""
    header = read_header(path)
    plain = not any(header.mean) and all(value == 1 for value in header.std)
    return {
        "factor": header.factor,
        "storage": header.storage,
        "standardise": not plain,
        "zca_eps": header.zca_eps,
    }

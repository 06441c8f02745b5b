"""Comma-separated text: a line per image with its class id, its class name and its pixels, levels 0 to 255."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from atom_plugin.errors import ConfigError
from atom_plugin.runtime.files import write_bytes
from atom_plugin.store.synthetic_set import SyntheticSet


def write(synthetic_set: SyntheticSet, path: Path, *, force: bool, delimiter: str = ",") -> list[str]:
    """Write true colours, (C, H, W) flattened; returns what the format could not hold."""
    if not isinstance(delimiter, str) or len(delimiter) != 1:
        raise ConfigError(f"delimiter must be one character, not {delimiter!r}")
    levels = synthetic_set.true_colour().clamp(0, 1).mul(255).round().int().flatten(1)
    text = io.StringIO()
    lines = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    for label, pixels in zip(synthetic_set.labels.tolist(), levels.tolist(), strict=True):
        lines.writerow([label, synthetic_set.class_names[label], *pixels])
    write_bytes(path, text.getvalue().encode(), force=force)
    return [f"pixels were rounded to 256 levels; an image is {tuple(synthetic_set.images.shape[1:])}"]

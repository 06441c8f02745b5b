"""What a command that wrote a set says of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from atom_plugin.cli.outputs import quoted
from atom_plugin.cli.terminal import echo

if TYPE_CHECKING:
    from atom_plugin.store.synthetic_set import SyntheticSet


def report(synthetic_set: SyntheticSet, path: Path, *, made_from: int, as_json: bool, keep_paths: bool) -> None:
    """One line on the set, and what to do with it next; or one JSON object. It was made from so many training images."""
    provenance = synthetic_set.provenance
    note_whitening(synthetic_set, made_from)
    precision = provenance.config["precision"]  # what "auto" took here; elsewhere it may take another
    if as_json:
        result = {
            "file": str(path),
            "method": provenance.method,
            "images": len(synthetic_set),
            "classes": len(synthetic_set.classes),
            "ipc": synthetic_set.ipc,
            "iterations": provenance.iterations,
            "precision": precision,
            "final_loss": provenance.final_loss,
        }
        echo(json.dumps(result))
        return
    steps = f", {provenance.iterations} steps" if provenance.iterations else ""
    echo(
        f"{path}: {len(synthetic_set)} images, {synthetic_set.ipc} per class, {provenance.method}{steps}, "
        f"precision {precision}, {synthetic_set.preprocessing.describe()}"
    )
    name = quoted(path)
    where = "" if keep_paths else _folder_to_name(synthetic_set, path)
    echo(f"look at it:  atom-cli store show {name}\ntrain on it: atom-cli consume evaluate {name}{where}")


def note_whitening(synthetic_set: SyntheticSet, made_from: int) -> None:
    """Say where the whitening in a file tells which images it was fitted on: where these are fewer than an image's values."""
    values = math.prod(synthetic_set.preprocessing.image_shape)
    if synthetic_set.preprocessing.whitening is not None and made_from <= values:
        echo(
            f"note: the whitening was fitted on {made_from:,} images, no more than an image has values ({values:,}), so that "
            "whoever has the file can tell which (docs/privacy.md); --no-zca leaves it out",
            err=True,
        )


def _folder_to_name(synthetic_set: SyntheticSet, path: Path) -> str:
    """The option that names the folder of the images, where the file at ``path`` does not."""
    from atom_plugin.store.paths import portable

    made = synthetic_set.provenance
    own, stored = (each.source["options"].get("data_dir") for each in (made, portable(made, path.parent)))
    return f" --data-dir {quoted(own)}" if own and not stored else ""

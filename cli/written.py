"""What a command that wrote a set says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from atom_plugin.cli.outputs import quoted
from atom_plugin.cli.terminal import echo

if TYPE_CHECKING:
    from atom_plugin.store.synthetic_set import SyntheticSet


def report(synthetic_set: SyntheticSet, path: Path, *, as_json: bool, keep_paths: bool) -> None:
    """One line on the set, and what to do with it next; or one JSON object."""
    provenance = synthetic_set.provenance
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


def _folder_to_name(synthetic_set: SyntheticSet, path: Path) -> str:
    """The option that names the folder of the images, where the file at ``path`` does not."""
    from atom_plugin.store.paths import portable

    made = synthetic_set.provenance
    own, stored = (each.source["options"].get("data_dir") for each in (made, portable(made, path.parent)))
    return f" --data-dir {quoted(own)}" if own and not stored else ""

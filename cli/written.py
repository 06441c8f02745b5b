"""The closing message of a command that wrote sets."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atom_plugin.cli.outputs import quoted
from atom_plugin.cli.terminal import echo

if TYPE_CHECKING:
    from atom_plugin.store.synthetic_set import SyntheticSet


_SMALL = 1 << 20  # bytes of a matrix that nobody minds


def report(
    made: Mapping[Path, SyntheticSet], *, made_from: int, as_json: bool, keep_paths: bool, swept: bool = False
) -> None:
    """Print a line on each set and the next commands to run; or a JSON object, or a list of them with --seeds.

    All sets were made from the same ``made_from`` training images.
    """
    note_whitening(next(iter(made.values())), made_from)
    note_size(next(iter(made.values())))
    if as_json:
        results = [_as_json(held, path) for path, held in made.items()]
        echo(json.dumps(results if swept else results[0]))
        return
    for path, held in made.items():
        provenance = held.provenance
        steps = f", {provenance.iterations} steps" if provenance.iterations else ""
        echo(
            f"{path}: {len(held)} images, {held.ipc} per class, {provenance.method}{steps}, "
            f"precision {provenance.config['precision']}, {held.preprocessing.describe()}"
        )
    names = " ".join(map(quoted, made))
    where = "" if keep_paths else _folder_to_name(held, path)
    if swept:
        echo(f"train on each and pool the results: atom-cli consume evaluate {names}{where}")
    else:
        echo(f"look at it:  atom-cli store show {names}\ntrain on it: atom-cli consume evaluate {names}{where}")


def _as_json(held: SyntheticSet, path: Path) -> dict[str, Any]:
    provenance = held.provenance
    return {
        "file": str(path),
        "method": provenance.method,
        "images": len(held),
        "classes": len(held.classes),
        "ipc": held.ipc,
        "iterations": provenance.iterations,
        "precision": provenance.config["precision"],  # what "auto" took here; elsewhere it may take another
        "final_loss": provenance.final_loss,
    }


def note_whitening(synthetic_set: SyntheticSet, made_from: int) -> None:
    """Print a note if a whitening in the file reveals its training images, because these are fewer than an image has values."""
    values = math.prod(synthetic_set.preprocessing.image_shape)
    if synthetic_set.preprocessing.whitening is not None and made_from <= values:
        echo(
            f"note: the whitening was fitted on {made_from:,} images, no more than an image has values ({values:,}), so that "
            "whoever has the file can tell which (docs/privacy.md); --no-zca leaves it out",
            err=True,
        )


def note_size(synthetic_set: SyntheticSet) -> None:
    """Say where most of a file is the whitening matrix: a few images of 3x32x32 take 38 MB by it."""
    whitening, images = synthetic_set.preprocessing.whitening, synthetic_set.images
    if whitening is not None and whitening.matrix.nbytes > 10 * images.nbytes + _SMALL:
        echo(
            f"note: the whitening matrix takes {whitening.matrix.nbytes / 1e6:.1f} MB of the file, its images "
            f"{images.nbytes / 1e6:.2f}; --no-zca leaves the whitening out, which may cost accuracy",
            err=True,
        )


def _folder_to_name(synthetic_set: SyntheticSet, path: Path) -> str:
    """The option that names the folder of the images, if the file at ``path`` does not."""
    from atom_plugin.store.paths import portable

    made = synthetic_set.provenance
    own, stored = (each.source["options"].get("data_dir") for each in (made, portable(made, path.parent)))
    return f" --data-dir {quoted(own)}" if own and not stored else ""

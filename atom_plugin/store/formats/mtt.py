"""MTT's folder: images_best.pt and labels_best.pt, whitened if the run used ZCA.

During a run, MTT also writes images_<iteration>.pt and labels_<iteration>.pt.
Images float32 (N, channels, H, W), labels int64 (N,). The loader standardises CIFAR-100 with CIFAR-10's constants; with
``--zca`` it whitens plain [0, 1] images (kornia, eps 0.1), and the images are stored whitened. lr_best.pt is the learning rate
learned with the images. This format also reads folders of DATM and TESLA, with soft labels; the format datm writes them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.store.formats.coding import CIFAR10_FOR_BOTH, Toolkit
from atom_plugin.store.formats.context import ImportContext
from atom_plugin.store.formats.file_names import require_folder, write_files
from atom_plugin.store.formats.labels import SoftReading, load_pair
from atom_plugin.store.formats.tensors import dumps, load
from atom_plugin.store.formats.toolkit_coding import find_toolkit_coding, toolkit_tensors
from atom_plugin.store.synthetic_set import SyntheticSet

_TOOLKIT = Toolkit(name="MTT", constants=CIFAR10_FOR_BOTH, zca_on_plain=True, stores_zca=True)
IMAGES, LABELS, RATE = "images_best.pt", "labels_best.pt", "lr_best.pt"


def write(
    synthetic_set: SyntheticSet, path: Path, *, force: bool, mean: Any = None, std: Any = None, zca: bool | None = None
) -> list[str]:
    """Standardised as in MTT's loader, or whitened if the set's ZCA is MTT's, or if ``zca`` is True."""
    images, labels, notes = toolkit_tensors(synthetic_set, _TOOLKIT, mean=mean, std=std, zca=zca)
    write_files(path, {IMAGES: dumps(images), LABELS: dumps(labels)}, force=force)
    return [
        *notes,
        f"only for MTT's evaluation: the evaluations of DATM and TESLA need soft labels and {RATE}, which --format datm writes",
    ]


def read(
    path: Path,
    context: ImportContext,
    *,
    zca: bool | None = None,
    iteration: int | None = None,
    soft_labels: str = "keep",
    label_kind: str | None = None,
    trust_pickle: bool = False,
) -> SyntheticSet:
    """``zca`` True: the images are whitened, as with MTT's ``--zca``; by default as the set of ``--like`` suggests.

    ``iteration``: read the files of that number instead of the best. Soft labels that are not probabilities are logits.
    """
    files, soft = _files(path, iteration), SoftReading(soft_labels=soft_labels, label_kind=label_kind)
    images, labels = load_pair(*files, context, soft=soft, trust_pickle=trust_pickle)
    rate = path / RATE.replace("best", "best" if iteration is None else str(iteration))
    learned = _rate(rate, context, trust_pickle) if rate.exists() else None
    channels, height, width = images.shape[1:]
    coding = find_toolkit_coding(context, _TOOLKIT, (channels, height, width), zca=zca)
    return context.assemble(images, labels.classes, coding, soft=labels.soft, learned_lr=learned)


def _files(path: Path, iteration: int | None) -> tuple[Path, Path]:
    """The files of images and labels. Raises StoreError, or ConfigError if the folder has only numbered ones."""
    if iteration is not None and (isinstance(iteration, bool) or not isinstance(iteration, int) or iteration < 0):
        raise ConfigError(f"iteration must be a whole number of 0 or more, not {iteration!r}")
    chosen = "best" if iteration is None else str(iteration)
    names = f"images_{chosen}.pt", f"labels_{chosen}.pt"
    if path.is_dir() and not (path / names[0]).is_file():
        numbers = sorted(
            int(found[1]) for item in path.iterdir() if (found := re.fullmatch(r"images_(\d+)\.pt", item.name))
        )
        if numbers:
            shown = ", ".join(map(str, numbers[:5])) + (" …" if len(numbers) > 5 else "")
            raise ConfigError(
                f"{path}: holds no {names[0]}, but iterations {shown}; choose one with --option iteration={numbers[-1]}"
            )
    require_folder(path, names)
    return path / names[0], path / names[1]


def _rate(path: Path, context: ImportContext, trust_pickle: bool) -> float | None:
    """The learning rate; None, with a note, for an invalid value."""
    found = load(path, context, trust_pickle=trust_pickle)
    try:
        rate = float(found)
    except (TypeError, ValueError, RuntimeError) as error:
        raise StoreError(f"{path}: found a {type(found).__name__}, expected one number, a learning rate") from error
    if not 0 < rate < float("inf"):
        context.note(f"{path.name} holds {rate:g}, which is not a learning rate above 0; it was left out")
        return None
    context.note(f"{path.name} holds the learned learning rate {rate:.6g}")
    return rate

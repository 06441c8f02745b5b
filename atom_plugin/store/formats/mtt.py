"""MTT's and DATM's folder: images_best.pt and labels_best.pt, whitened where the run used ZCA, perhaps lr_best.pt.

Images float32 (N, channels, H, W), labels int64 (N,). The loader standardises CIFAR-100 with CIFAR-10's constants; with
``--zca`` it whitens plain [0, 1] images (kornia, eps 0.1), and the images are stored so. lr_best.pt is the learning rate
learned with the images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atom_plugin.errors import StoreError
from atom_plugin.store.formats.coding import CIFAR10_FOR_BOTH, Toolkit
from atom_plugin.store.formats.context import ImportContext
from atom_plugin.store.formats.file_names import require_folder, write_files
from atom_plugin.store.formats.tensors import dumps, load, load_pair
from atom_plugin.store.formats.toolkit_coding import find_toolkit_coding, toolkit_tensors
from atom_plugin.store.synthetic_set import SyntheticSet

_TOOLKIT = Toolkit(name="MTT", constants=CIFAR10_FOR_BOTH, zca_on_plain=True, stores_zca=True)
_IMAGES, _LABELS, _RATE = "images_best.pt", "labels_best.pt", "lr_best.pt"


def write(
    synthetic_set: SyntheticSet, path: Path, *, force: bool, mean: Any = None, std: Any = None, zca: bool | None = None
) -> list[str]:
    """Standardised as MTT's loader does, or whitened where the set's ZCA is MTT's, or where ``zca`` is True."""
    images, labels, notes = toolkit_tensors(synthetic_set, _TOOLKIT, mean=mean, std=std, zca=zca)
    write_files(path, {_IMAGES: dumps(images), _LABELS: dumps(labels)}, force=force)
    return notes


def read(
    path: Path,
    context: ImportContext,
    *,
    zca: bool | None = None,
    soft_labels: str = "refuse",
    trust_pickle: bool = False,
) -> SyntheticSet:
    """``zca`` True: the images are whitened, as with MTT's ``--zca``; by default as the set of ``--like`` suggests."""
    require_folder(path, (_IMAGES, _LABELS))
    files = path / _IMAGES, path / _LABELS
    images, labels = load_pair(*files, context, soft_labels=soft_labels, trust_pickle=trust_pickle)
    if (path / _RATE).exists():
        context.note(
            f"learned with the learning rate {_rate(path / _RATE, context, trust_pickle):.6g}, which is not kept"
        )
    channels, height, width = images.shape[1:]
    return context.assemble(images, labels, find_toolkit_coding(context, _TOOLKIT, (channels, height, width), zca=zca))


def _rate(path: Path, context: ImportContext, trust_pickle: bool) -> float:
    found = load(path, context, trust_pickle=trust_pickle)
    try:
        return float(found)
    except (TypeError, ValueError, RuntimeError) as error:
        raise StoreError(f"{path}: found a {type(found).__name__}, expected one number, a learning rate") from error

"""DD-Ranking's tensors: a folder of images.pt and labels.pt, standardised or whitened as in its loader.

``LabelRobustScoreHard(…).compute_metrics(image_tensor=…, hard_labels=…)`` takes the two. Its loader standardises CIFAR-100 with
CIFAR-10's constants; with ``use_zca=True`` it whitens plain [0, 1] images (kornia, eps 0.1). Without labels it assigns images
class by class, equally many to each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atom_plugin.store.formats.coding import CIFAR10_FOR_BOTH, Toolkit
from atom_plugin.store.formats.context import ImportContext
from atom_plugin.store.formats.file_names import require_folder, write_files
from atom_plugin.store.formats.labels import Labels, SoftReading, class_by_class, load_pair
from atom_plugin.store.formats.tensors import checked_images, dumps, load
from atom_plugin.store.formats.toolkit_coding import find_toolkit_coding, toolkit_tensors
from atom_plugin.store.synthetic_set import SyntheticSet

_TOOLKIT = Toolkit(name="DD-Ranking", constants=CIFAR10_FOR_BOTH, zca_on_plain=True, stores_zca=True)
_IMAGES, _LABELS = "images.pt", "labels.pt"


def write(
    synthetic_set: SyntheticSet, path: Path, *, force: bool, mean: Any = None, std: Any = None, zca: bool | None = None
) -> list[str]:
    """Standardised as in its loader, or whitened if the set's ZCA is that of ``use_zca``, or ``zca`` is True."""
    images, labels, notes = toolkit_tensors(synthetic_set, _TOOLKIT, mean=mean, std=std, zca=zca)
    counts = labels.bincount(minlength=len(synthetic_set.class_names)).tolist()
    if len(set(counts)) > 1:
        notes.append("classes differ in their number of images: pass hard_labels=, or DD-Ranking assumes equal numbers")
    write_files(path, {_IMAGES: dumps(images), _LABELS: dumps(labels)}, force=force)
    return notes


def read(
    path: Path,
    context: ImportContext,
    *,
    zca: bool | None = None,
    soft_labels: str = "keep",
    label_kind: str | None = None,
    trust_pickle: bool = False,
) -> SyntheticSet:
    """``zca`` True: images are whitened as with ``use_zca=True``; by default as in the set of ``--like``."""
    require_folder(path, (_IMAGES,))
    file, labels_file = path / _IMAGES, path / _LABELS
    if labels_file.exists():
        soft = SoftReading(soft_labels=soft_labels, label_kind=label_kind)
        images, labels = load_pair(file, labels_file, context, soft=soft, trust_pickle=trust_pickle)
    else:
        images = checked_images(load(file, context, trust_pickle=trust_pickle), str(file))
        labels = Labels(classes=class_by_class(len(images), len(context.names()), str(path)))
        context.note(f"there is no {_LABELS}: assigned the images class by class, as DD-Ranking does")
    channels, height, width = images.shape[1:]
    coding = find_toolkit_coding(context, _TOOLKIT, (channels, height, width), zca=zca)
    return context.assemble(images, labels.classes, coding, soft=labels.soft)

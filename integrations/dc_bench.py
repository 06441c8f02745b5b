"""DC-BENCH (Cui et al., 2022, arXiv:2207.09639) on our HDF5 files: a data loader with its interface.

DC-BENCH calls ``load_data(root_dir, dataset, ipc, data_file)`` of a method's loader and trains on the two tensors;
``root_dir`` is its ``distilled_results``. Put a set at ``distilled_results/ATOM/CIFAR10/IPC10/cifar10-atom-ipc10.h5`` and
add two branches to its ``evaluator/evaluator_utils.py``, in ``get_data_loader`` and in ``get_data_file_name``::

    elif method == 'atom':
        return AtomDataLoader()
    elif method == 'atom':
        return AtomDataLoader.get_data_file_name(method, dataset, ipc)
"""

from __future__ import annotations

from pathlib import Path

import torch

from atom_plugin import store
from atom_plugin.errors import ConfigError, shape_text
from atom_plugin.store.formats.coding import DATASET_CONDENSATION, convert, standardised

# Number of classes and image side of DC-BENCH's test loaders, by its names of the datasets.
_DATASETS = {"CIFAR10": (10, 32), "CIFAR100": (100, 32), "tinyimagenet": (200, 64)}


class AtomDataLoader:
    """The sets under ``<root_dir>/ATOM``. For sets of another method, wrap :func:`load` in a class like this one."""

    @staticmethod
    def load_data(
        root_dir: str | Path, dataset: str, ipc: int, data_file: str | Path
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """:func:`load` for the method "ATOM"."""
        return load(root_dir, "ATOM", dataset, ipc, data_file)

    @staticmethod
    def get_data_file_name(method: str, dataset: str, ipc: int) -> str:
        """The default file name of ``atom-cli distill``: "cifar10-atom-ipc10.h5"."""
        return f"{dataset.lower()}-{method.lower()}-ipc{ipc}.h5"


def load(
    root_dir: str | Path, method: str, dataset: str, ipc: int, data_file: str | Path
) -> tuple[torch.Tensor, torch.Tensor]:
    """The set at ``<root_dir>/<method>/<dataset>/IPC<ipc>/<data_file>``, in the coding of DC-BENCH's test images.

    Images float32 (K * ipc, 3, H, W): our preprocessing, ZCA included, is undone; DC-BENCH's constants for ``dataset``
    standardise them. Labels int64 (K * ipc,): the set's class ids, equal to torchvision's (sorted folders for tinyimagenet).
    Raises StoreError for a file that cannot be read, ConfigError for an unknown dataset or a set that does not fit it.
    """
    if dataset not in _DATASETS:
        raise ConfigError(f"DC-BENCH has no dataset {dataset!r}; it has {', '.join(_DATASETS)}")
    path = Path(root_dir) / method / dataset / f"IPC{ipc}" / data_file
    found = store.read(path).decoded()
    classes, side = _DATASETS[dataset]
    shape = found.preprocessing.image_shape
    if shape != (3, side, side):
        raise ConfigError(
            f"{path}: holds images of {shape_text(shape)}, {dataset} has 3x{side}x{side}; choose another file"
        )
    counts = torch.bincount(found.labels, minlength=classes).tolist()
    if counts != [ipc] * classes:
        held = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else str(counts[0])
        raise ConfigError(
            f"{path}: holds {held} images in each of {len(counts)} classes, expected {ipc} in each of {classes}; choose "
            "another file"
        )
    wanted = standardised(DATASET_CONDENSATION[dataset.lower()], shape)
    return convert(found.images, found.preprocessing, wanted), found.labels

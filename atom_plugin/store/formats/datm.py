"""DATM's folder: images_best.pt, labels_best.pt with logits of soft labels, and lr_best.pt, the learned learning rate.

``distill/evaluation.py`` of DATM takes the three as ``--data_dir``, ``--label_dir`` and ``--lr_dir``; networks learn the
softmax of the logits. Images have MTT's coding. The format also reads TESLA's folders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from atom_plugin.errors import ConfigError
from atom_plugin.store.formats.coding import CIFAR10_FOR_BOTH, Toolkit
from atom_plugin.store.formats.file_names import write_files
from atom_plugin.store.formats.mtt import IMAGES, LABELS, RATE, read
from atom_plugin.store.formats.tensors import dumps
from atom_plugin.store.formats.toolkit_coding import toolkit_tensors
from atom_plugin.store.soft_labels import SoftLabels
from atom_plugin.store.synthetic_set import SyntheticSet

__all__ = ["read", "write"]

HOLDS_SOFT_LABELS = True
_TOOLKIT = Toolkit(name="DATM", constants=CIFAR10_FOR_BOTH, zca_on_plain=True, stores_zca=True)


def write(
    synthetic_set: SyntheticSet,
    path: Path,
    *,
    force: bool,
    mean: Any = None,
    std: Any = None,
    zca: bool | None = None,
    lr: float | None = None,
) -> list[str]:
    """Images in MTT's coding. ``lr``: the learning rate to write instead of the set's, or if the set has none."""
    soft = synthetic_set.soft_labels
    if soft is None:
        raise ConfigError("DATM's labels are soft, and the set has none; export it as mtt")
    rate = _rate(lr, synthetic_set.learned_lr)
    images, _, notes = toolkit_tensors(synthetic_set, _TOOLKIT, mean=mean, std=std, zca=zca)
    order = synthetic_set.labels.argsort(stable=True)  # the image order of toolkit_tensors
    files = {IMAGES: dumps(images), LABELS: dumps(_logits(soft.at(order)))}
    if rate is None:
        notes.append(f"there is no {RATE}, which DATM's evaluation needs: --option lr=0.01 writes one")
    else:
        files[RATE] = dumps(torch.tensor(rate, dtype=torch.float64))
    if soft.kind == "probabilities":
        notes.append("probabilities were converted to logits, their logarithms")
    write_files(path, files, force=force)
    return notes


def _rate(given: Any, learned: float | None) -> float | None:
    if given is None:
        return learned
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < float("inf"):
        raise ConfigError(f"lr must be a number above 0, not {given!r}")
    return float(given)


def _logits(soft: SoftLabels) -> torch.Tensor:
    """The logits whose softmax gives the labels' probabilities. Raises ConfigError for scores, which have no probabilities."""
    if soft.kind == "scores":
        raise ConfigError(
            "the set's soft labels are scores, which DATM's softmax cannot use; export the set as npz or pt"
        )
    if soft.kind == "logits":
        return soft.values
    return soft.values.clamp_min(torch.finfo(torch.float32).tiny).log()

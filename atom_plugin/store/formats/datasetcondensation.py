"""DatasetCondensation's result file (DC, DSA, DM), DataDAM's, LoDC's, IDM's: a dict of experiments in one .pt file.

``torch.save({"data": [[images, labels], …one per experiment], "accs_all_exps": {…}}, path)``: images float32
(C * ipc, channels, H, W), standardised and class-major; labels int64. DataDAM's ZCA whitens standardised images. IDM packs
factor x factor small images into each, as IDC does, but standardised.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.runtime.files import refuse_existing, write_bytes
from atom_plugin.store.formats.coding import DATASET_CONDENSATION, Toolkit
from atom_plugin.store.formats.context import ImportContext
from atom_plugin.store.formats.idc import unpacked_pair
from atom_plugin.store.formats.labels import SoftReading, checked_pair
from atom_plugin.store.formats.own_fields import fitting_format
from atom_plugin.store.formats.tensors import dumps, load
from atom_plugin.store.formats.toolkit_coding import find_toolkit_coding, toolkit_tensors
from atom_plugin.store.synthetic_set import SyntheticSet

_TOOLKIT = Toolkit(name="DatasetCondensation", constants=DATASET_CONDENSATION)


KIND, TAKES_PACKED = "a torch file", True


def write(
    synthetic_set: SyntheticSet,
    path: Path,
    *,
    force: bool,
    mean: Any = None,
    std: Any = None,
    zca: bool | None = None,
    packed: bool = False,
) -> list[str]:
    """One experiment, standardised with the loader's constants for the set's source; ``zca`` True stores it whitened.

    Packed images are unpacked, unless ``packed`` is True: IDM's scripts load them with the factor, DC's scripts would not
    unpack them.
    """
    refuse_existing(path, force=force)
    if not isinstance(packed, bool):
        raise ConfigError(f"packed must be true or false, not {packed!r}")
    if packed and synthetic_set.factor == 1:
        raise ConfigError("packed=true keeps a packed set's images packed, but this set is not packed; leave it out")
    held = synthetic_set if packed else synthetic_set.decoded()
    images, labels, notes = toolkit_tensors(held, _TOOLKIT, mean=mean, std=std, zca=zca)
    if packed:
        notes.append(f"images are packed: load them with factor {held.factor}, as IDM does")
    elif len(held) > len(synthetic_set):
        notes.append(f"{len(synthetic_set)} packed images were unpacked into {len(held)}")
    write_bytes(path, dumps({"data": [[images, labels]], "accs_all_exps": {}}), force=force)
    return notes


def read(
    path: Path,
    context: ImportContext,
    *,
    experiment: int | None = None,
    zca: bool | None = None,
    factor: int = 1,
    soft_labels: str = "keep",
    label_kind: str | None = None,
    trust_pickle: bool = False,
) -> SyntheticSet:
    """One ``experiment`` of a file, counted from 0, needed if there are several; ``zca`` True: it is whitened.

    ``factor``: how many images IDM packed along each side of one.
    """
    experiments = load_experiments(path, context, trust_pickle=trust_pickle)
    number = chosen_experiment(path, len(experiments), experiment)
    where = f"{path}: experiment {number}"
    soft = SoftReading(soft_labels=soft_labels, label_kind=label_kind)
    return experiment_set(experiments[number], where, context, _TOOLKIT, soft=soft, zca=zca, factor=factor)


def load_experiments(path: Path, context: ImportContext, *, trust_pickle: bool) -> list[Any]:
    """The experiments of a file, not empty. Raises StoreError for anything else."""
    found = load(path, context, trust_pickle=trust_pickle)
    if not isinstance(found, dict) or "data" not in found:
        keys = ", ".join(map(str, list(found)[:5])) if isinstance(found, dict) else f"a {type(found).__name__}"
        raise StoreError(
            f"{path}: found {keys or 'an empty dict'}, expected a dict with the key data; {fitting_format(found)}"
        )
    experiments = found["data"]
    if not isinstance(experiments, list) or not experiments:
        raise StoreError(f"{path}: data is {type(experiments).__name__} without experiments, expected a list of them")
    return experiments


def chosen_experiment(path: Path, count: int, experiment: int | None) -> int:
    """The chosen one of ``count`` experiments. Raises ConfigError if there are several and none is chosen, or for a wrong
    number.
    """
    if experiment is None and count == 1:
        return 0
    if (
        experiment is None
        or isinstance(experiment, bool)
        or not isinstance(experiment, int)
        or not 0 <= experiment < count
    ):
        found = "" if experiment is None else f", none numbered {experiment!r}"
        raise ConfigError(f"{path}: holds {count} experiments{found}; choose one with --experiment 0 to {count - 1}")
    return experiment


def experiment_set(
    pair: Any,
    where: str,
    context: ImportContext,
    toolkit: Toolkit,
    *,
    soft: SoftReading,
    zca: bool | None = None,
    dataset: str | None = None,
    factor: int = 1,
) -> SyntheticSet:
    """The set of one ``[images, labels]``, in the coding that :func:`find_toolkit_coding` finds. Raises StoreError."""
    images, labels = unpacked_pair(*checked_pair(pair, where, context, soft=soft), factor, context)
    channels, height, width = images.shape[1:]
    coding = find_toolkit_coding(context, toolkit, (channels, height, width), zca=zca, dataset=dataset)
    return context.assemble(images, labels.classes, coding, soft=labels.soft)

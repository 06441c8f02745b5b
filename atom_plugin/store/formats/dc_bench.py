"""DC-BENCH's folder of results: PATH/<METHOD>/<DATASET>/IPC<n>/ with a result file, or images and labels, standardised.

PATH is the folder that DC-BENCH calls distilled_results. DC, DSA and DM store DatasetCondensation's dict, whose last
experiment its loaders use; TM, random and Kmeans store two tensors, with "images" and "labels" in their file names. KIP's .npz
sets use their own whitening, which has no inverse, and cannot be read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.runtime.files import reason, refuse_existing, write_bytes
from atom_plugin.store.formats.coding import DATASET_CONDENSATION, Toolkit
from atom_plugin.store.formats.context import ImportContext
from atom_plugin.store.formats.datasetcondensation import chosen_experiment, experiment_set, load_experiments
from atom_plugin.store.formats.file_names import clean_name
from atom_plugin.store.formats.labels import SoftReading
from atom_plugin.store.formats.tensors import dumps, load
from atom_plugin.store.formats.toolkit_coding import toolkit_tensors
from atom_plugin.store.synthetic_set import SyntheticSet

_TOOLKIT = Toolkit(name="DC-BENCH", constants=DATASET_CONDENSATION)
_DATASETS = {
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    "svhn": "SVHN",
}
_OWN_LOADERS = ("DC", "DSA", "DM")
_BY_NAME = {theirs: ours for ours, theirs in _DATASETS.items()}


def write(
    synthetic_set: SyntheticSet,
    path: Path,
    *,
    force: bool,
    method: str | None = None,
    dataset: str | None = None,
    mean: Any = None,
    std: Any = None,
) -> list[str]:
    """Add one file below PATH, made if absent. ``method`` and ``dataset``, in DC-BENCH's names, default to the set's."""
    counts = set(synthetic_set.labels.bincount(minlength=len(synthetic_set.class_names)).tolist())
    if len(counts) != 1:
        raise ConfigError(
            f"DC-BENCH needs the same number of images for each class, found {sorted(counts)}; cannot export"
        )
    named = clean_name(str(method or synthetic_set.provenance.method.upper()))
    source = synthetic_set.provenance.source.get("name", "")
    theirs = clean_name(str(dataset or _DATASETS.get(source, source)))
    if not (dataset or source):
        raise ConfigError(
            "the set does not name its source, and DC-BENCH sorts by dataset; pass --option dataset=CIFAR10"
        )
    (ipc,) = counts
    images, labels, notes = toolkit_tensors(
        synthetic_set, _TOOLKIT, mean=mean, std=std, dataset=_BY_NAME.get(theirs, theirs)
    )
    network = "ConvNetD4" if theirs == "tinyimagenet" else "ConvNet"
    target = path / named / theirs / f"IPC{ipc}" / f"res_{named}_{theirs}_{network}_{ipc}ipc.pt"
    refuse_existing(target, force=force)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{target.parent}: cannot be made: {reason(error, target.parent)}") from error
    write_bytes(target, dumps({"data": [[images, labels]], "accs_all_exps": {}}), force=force)
    if named not in _OWN_LOADERS:
        known = ", ".join(_OWN_LOADERS)
        notes.append(f"DC-BENCH's loaders look for {known}: register one for {named}, or use --option method=DM")
    return [f"written to {target}", *notes]


def read(
    path: Path,
    context: ImportContext,
    *,
    method: str | None = None,
    dataset: str | None = None,
    ipc: int | None = None,
    experiment: int | None = None,
    factor: int = 1,
    soft_labels: str = "keep",
    label_kind: str | None = None,
    trust_pickle: bool = False,
) -> SyntheticSet:
    """PATH is an IPC<n> folder, or one above it, from which ``method``, ``dataset`` and ``ipc`` choose.

    ``factor``: as for IDM's files.
    """
    folder = _ipc_folder(path, {"method": method, "dataset": dataset, "ipc": ipc})
    files = sorted(item for item in folder.iterdir() if item.suffix == ".pt")
    if len(files) == 1:
        pair, where = _last_or_chosen(files[0], context, experiment, trust_pickle=trust_pickle)
    else:
        pair, where = _images_and_labels(folder, files, context, experiment, trust_pickle=trust_pickle)
    named, theirs = folder.absolute().parts[-3:-1] if len(folder.absolute().parts) > 3 else ("", "")
    if context.method is None and named:
        context.method = named
    known = _BY_NAME.get(theirs, theirs)
    soft = SoftReading(soft_labels=soft_labels, label_kind=label_kind)
    return experiment_set(pair, where, context, _TOOLKIT, soft=soft, dataset=known, factor=factor)


def _ipc_folder(path: Path, wanted: dict[str, Any]) -> Path:
    if not path.is_dir():
        raise StoreError(f"{path}: is not a folder, expected distilled_results or one below it; give its name")
    if re.fullmatch(r"IPC\d+", path.absolute().name):
        return path
    found = sorted(item for item in path.rglob("IPC*") if item.is_dir() and re.fullmatch(r"IPC\d+", item.name))
    chosen = [item for item in found if _named(item, wanted)]
    if len(chosen) == 1:
        return chosen[0]
    if not chosen:
        kinds = f", {len(found)} others" if found else ""
        raise StoreError(f"{path}: holds no requested folder METHOD/DATASET/IPC<n>{kinds}; check path and options")
    first = ", ".join(item.relative_to(path).as_posix() for item in chosen[:4])
    raise ConfigError(
        f"{path}: holds {len(chosen)} sets ({first}{' …' if len(chosen) > 4 else ''}); give the path of one, or choose with "
        "--option method=…, dataset=…, ipc=…"
    )


def _named(folder: Path, wanted: dict[str, Any]) -> bool:
    found = {
        "ipc": folder.name.removeprefix("IPC"),
        "dataset": folder.parent.name.casefold(),
        "method": folder.parent.parent.name.casefold(),
    }
    return all(value is None or str(value).casefold() == found[key] for key, value in wanted.items())


def _last_or_chosen(
    file: Path, context: ImportContext, experiment: int | None, *, trust_pickle: bool
) -> tuple[Any, str]:
    experiments = load_experiments(file, context, trust_pickle=trust_pickle)
    if experiment is None:
        number = len(experiments) - 1
        if number:
            context.note(
                f"took the last of {len(experiments)} experiments, as DC-BENCH does; --experiment chooses another"
            )
    else:
        number = chosen_experiment(file, len(experiments), experiment)
    return experiments[number], f"{file}: experiment {number}"


def _images_and_labels(
    folder: Path, files: list[Path], context: ImportContext, experiment: int | None, *, trust_pickle: bool
) -> tuple[list[Any], str]:
    images = [file for file in files if "images" in file.name]
    labels = [file for file in files if "labels" in file.name]
    if len(images) != 1 or len(labels) != 1:
        names = ", ".join(file.name for file in files[:4]) or "no .pt file"
        raise StoreError(f"{folder}: found {names}, expected one result file, or one of images and one of labels")
    if experiment is not None:
        raise ConfigError(f"{folder}: holds one set as two tensors; leave --experiment out")
    return [load(file, context, trust_pickle=trust_pickle) for file in (images[0], labels[0])], str(folder)

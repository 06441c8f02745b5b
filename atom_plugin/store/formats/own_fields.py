"""The contents of the npz and pt formats, by key: everything of a set, so that reading one needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import torch

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.runtime import bounded_json
from atom_plugin.store.formats.coding import convert
from atom_plugin.store.formats.context import ImportContext
from atom_plugin.store.formats.labels import checked_labels
from atom_plugin.store.formats.tensors import checked_images
from atom_plugin.store.paths import without_folders
from atom_plugin.store.provenance import Provenance
from atom_plugin.store.soft_labels import SoftLabels
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing
from atom_plugin.transforms.whitening import Whitening

PIXELS = ("preprocessed", "true-colour")
_ZCA = ("zca_mean", "zca_matrix", "zca_eps")
REQUIRED = ("images", "labels", "class_names", "mean", "std", "pixels", "provenance")


def number_fields(held: SyntheticSet, pixels: str | None) -> tuple[dict[str, torch.Tensor], str]:
    """The numbers of a set as tensors by key, with their coding; ``pixels`` None means preprocessed.

    "true-colour" pixels have the preprocessing undone, on the [0, 1] scale, not clamped. Raises ConfigError.
    """
    chosen = pixels or "preprocessed"
    if chosen not in PIXELS:
        raise ConfigError(f"found pixels {chosen!r}, expected one of {PIXELS}")
    preprocessing = held.preprocessing
    images = held.images if chosen == "preprocessed" else held.true_colour()
    tensors = {"images": images, "labels": held.labels, "mean": preprocessing.mean, "std": preprocessing.std}
    if preprocessing.whitening is not None:
        tensors["zca_mean"] = preprocessing.whitening.mean
        tensors["zca_matrix"] = preprocessing.whitening.matrix
        tensors["zca_eps"] = torch.tensor(preprocessing.whitening.eps, dtype=torch.float64)
    if held.soft_labels is not None:
        tensors["soft_labels"] = held.soft_labels.values
    if held.learned_lr is not None:
        tensors["learned_lr"] = torch.tensor(held.learned_lr, dtype=torch.float64)
    return {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, chosen


def text_fields(held: SyntheticSet, pixels: str) -> dict[str, str]:
    """The texts of a set except its class names; ``pixels`` is the coding that :func:`number_fields` gives."""
    return {"pixels": pixels} | ({} if held.soft_labels is None else {"soft_label_kind": held.soft_labels.kind})


def set_of(found: Mapping[str, Any], where: str, context: ImportContext) -> SyntheticSet:
    """The set from the fields: numbers as tensors, names as strings, provenance as a dict. Raises StoreError."""
    absent = [key for key in REQUIRED if key not in found]
    if absent:
        held = ", ".join(map(str, list(found)[:6])) or "nothing"
        raise StoreError(
            f"{where}: has {held}, but no {', '.join(absent)}, which an export of this package has; "
            f"{fitting_format(found)}"
        )
    images = checked_images(found["images"], where)
    labels = checked_labels(found["labels"], len(images), where, context).classes
    preprocessing = _preprocessing(found, images, where)
    names = found["class_names"]
    if not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise StoreError(f"{where}: class_names are not a list of text; it is damaged")
    if len(labels) and int(labels.max()) >= len(names):
        raise StoreError(
            f"{where}: labels go up to {int(labels.max())}, but it names {len(names)} classes; it is damaged"
        )
    if found["pixels"] not in PIXELS:
        raise StoreError(f"{where}: found pixels {found['pixels']!r}, expected one of {PIXELS}; it is damaged")
    if found["pixels"] == "true-colour":
        images = convert(images, None, preprocessing)
    provenance = _provenance(found["provenance"], where)
    try:
        return SyntheticSet(
            images=images,
            labels=labels,
            class_names=tuple(names),
            preprocessing=preprocessing,
            provenance=provenance,
            soft_labels=_soft_labels(found, (len(images), len(names)), where),
            learned_lr=_learned_lr(found, where),
        )
    except ConfigError as error:
        raise StoreError(f"{where}: {error}") from error


def _soft_labels(found: Mapping[str, Any], shape: tuple[int, int], where: str) -> SoftLabels | None:
    if "soft_labels" not in found and "soft_label_kind" not in found:
        return None
    if "soft_labels" not in found or "soft_label_kind" not in found:
        raise StoreError(
            f"{where}: holds only one of soft_labels and soft_label_kind, expected both or none; it is damaged"
        )
    values = _floats(found["soft_labels"], shape, "soft_labels", where)
    return SoftLabels(values=values, kind=found["soft_label_kind"])


def _learned_lr(found: Mapping[str, Any], where: str) -> float | None:
    if "learned_lr" not in found:
        return None
    return float(_floats(found["learned_lr"], (), "learned_lr", where, torch.float64))


def fitting_format(found: Any) -> str:
    """A suggestion of a format for a file in which the keys ``found`` are."""
    names = {str(key).casefold() for key in found} if isinstance(found, Mapping) else set()
    if isinstance(found, Mapping) and isinstance(found.get("data"), list):
        return "it looks like --format datasetcondensation"
    if isinstance(found, list | tuple) and len(found) == 2:
        return "it looks like --format idc (images in [0, 1]) or arrays (any others)"
    if names & {"images", "image", "x", "x_train", "x_proto", "x_syn", "image_syn", "syn_images", "data"}:
        return "it looks like --format arrays"
    return "--format arrays with --option images=NAME and labels=NAME reads any two arrays"


def provenance_field(held: SyntheticSet) -> dict[str, Any]:
    """The provenance as a dict of plain values, without folders of this machine."""
    return asdict(without_folders(held.provenance))


def parsed_json(text: str, where: str) -> Any:
    """JSON text as a value. Raises StoreError."""
    try:
        return bounded_json.parse(text)
    except ValueError as error:
        raise StoreError(f"{where}: holds text that is not JSON ({error}); it is damaged") from error


def _preprocessing(found: Mapping[str, Any], images: torch.Tensor, where: str) -> Preprocessing:
    channels, height, width = images.shape[1:]
    size = channels * height * width
    mean, std = (_floats(found[key], (channels,), key, where) for key in ("mean", "std"))
    if not bool((std > 0).all()):
        raise StoreError(f"{where}: std must be above 0; it is damaged")
    whitening = None
    if any(key in found for key in _ZCA):
        if not all(key in found for key in _ZCA):
            raise StoreError(f"{where}: has some of {', '.join(_ZCA)}, expected all or none; it is damaged")
        eps = float(_floats(found["zca_eps"], (), "zca_eps", where, torch.float64))
        whitening = Whitening(
            mean=_floats(found["zca_mean"], (size,), "zca_mean", where),
            matrix=_floats(found["zca_matrix"], (size, size), "zca_matrix", where),
            eps=eps,
        )
    return Preprocessing(mean=mean, std=std, image_shape=(channels, height, width), whitening=whitening)


def _floats(
    value: Any, shape: tuple[int, ...], key: str, where: str, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        whole = value.layout == torch.strided and value.device.type == "cpu"
        fits = whole and value.dtype == dtype and tuple(value.shape) == shape
        if fits and bool(torch.isfinite(value).all()):
            return value.contiguous()
    kind = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
    raise StoreError(f"{where}: {key} is {kind}, expected finite {dtype} {shape}; it is damaged")


def _provenance(value: Any, where: str) -> Provenance:
    known = {field.name for field in fields(Provenance)}
    if not isinstance(value, dict) or not known - {"final_loss"} <= set(value) <= known:
        raise StoreError(
            f"{where}: provenance is not an object with {', '.join(sorted(known))}; it is damaged, or newer: update"
        )
    try:
        bounded_json.check(value)
        return Provenance(**value)
    except (ConfigError, ValueError) as error:
        raise StoreError(f"{where}: provenance: {error}; it is damaged") from error

"""The fields of a synthetic set as the arrays of its file, and back."""

from __future__ import annotations

import dataclasses
import json
import operator
from collections.abc import Iterable
from typing import Any, TypedDict

import numpy as np
import torch

from atom_plugin.errors import ConfigError
from atom_plugin.runtime import bounded_json
from atom_plugin.runtime.text import flaw
from atom_plugin.store.provenance import Provenance
from atom_plugin.store.schema import ELEMENTS, SOFT_LABELS, ZCA, Array, Arrays, SchemaError
from atom_plugin.store.soft_labels import SoftLabels
from atom_plugin.transforms.preprocessing import Preprocessing
from atom_plugin.transforms.whitening import Whitening


class SetFields(TypedDict):
    """The fields of :class:`~atom_plugin.store.synthetic_set.SyntheticSet`, by name."""

    images: torch.Tensor
    labels: torch.Tensor
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    provenance: Provenance
    factor: int
    prefixes: tuple[int, ...]
    soft_labels: SoftLabels | None
    learned_lr: float | None


def encode(fields: SetFields) -> dict[str, Array]:
    """The set as numpy arrays by element. Raises SchemaError for values that the format cannot store."""
    preprocessing, provenance = fields["preprocessing"], fields["provenance"]
    arrays: dict[str, Array] = {
        "images": _numbers(fields["images"]),
        "labels": _numbers(fields["labels"]),
        "class_names": _texts("class_names", fields["class_names"]),
        "preprocessing/image_shape": np.array(preprocessing.image_shape, "<i8"),
        "preprocessing/mean": _numbers(preprocessing.mean),
        "preprocessing/std": _numbers(preprocessing.std),
    }
    if preprocessing.whitening is not None:
        arrays[f"{ZCA}/mean"] = _numbers(preprocessing.whitening.mean)
        arrays[f"{ZCA}/matrix"] = _numbers(preprocessing.whitening.matrix)
        arrays[f"{ZCA}/eps"] = np.array(preprocessing.whitening.eps, "<f8")
    if fields["factor"] != 1:
        arrays["factor"] = np.array(fields["factor"], "<i8")
    if fields["prefixes"]:
        arrays["prefixes"] = np.array(fields["prefixes"], "<i8")
    if (soft := fields["soft_labels"]) is not None:
        arrays[f"{SOFT_LABELS}/values"] = _numbers(soft.values)
        arrays[f"{SOFT_LABELS}/kind"] = _scalar(f"{SOFT_LABELS}/kind", soft.kind)
    if fields["learned_lr"] is not None:
        arrays["learned_lr"] = np.array(fields["learned_lr"], "<f8")
    for field in dataclasses.fields(Provenance):
        value = getattr(provenance, field.name)
        if value is not None:
            arrays[f"provenance/{field.name}"] = _scalar(f"provenance/{field.name}", value)
    return {key: arrays[key] for key in ELEMENTS if key in arrays}


def decode(arrays: Arrays) -> SetFields:
    """The set in checked ``arrays``. Raises SchemaError for text that is not UTF-8 or not JSON."""
    return SetFields(
        images=_tensor(arrays["images"]),
        labels=decode_labels(arrays),
        class_names=decode_names(arrays),
        preprocessing=decode_preprocessing(arrays),
        provenance=decode_provenance(arrays),
        factor=decode_factor(arrays),
        prefixes=decode_prefixes(arrays),
        soft_labels=decode_soft_labels(arrays),
        learned_lr=decode_learned_lr(arrays),
    )


def decode_soft_labels(arrays: Arrays) -> SoftLabels | None:
    """Soft labels, checked; None if there are none. Raises SchemaError."""
    if f"{SOFT_LABELS}/values" not in arrays:
        return None
    kind = _text(f"{SOFT_LABELS}/kind", arrays[f"{SOFT_LABELS}/kind"].item())
    try:
        return SoftLabels(values=_tensor(arrays[f"{SOFT_LABELS}/values"]), kind=kind)
    except ConfigError as error:
        raise SchemaError(f"{SOFT_LABELS}: {error}") from error


def decode_learned_lr(arrays: Arrays) -> float | None:
    """The learning rate that was learned with the images; None if none was."""
    return float(arrays["learned_lr"]) if "learned_lr" in arrays else None


def decode_prefixes(arrays: Arrays) -> tuple[int, ...]:
    """The prefix lengths of a nested set."""
    return tuple(arrays["prefixes"].tolist()) if "prefixes" in arrays else ()


def decode_factor(arrays: Arrays) -> int:
    """Tiles along a side of a stored image; 1 if images are not packed."""
    return int(arrays.get("factor", np.ones(())))


def decode_labels(arrays: Arrays) -> torch.Tensor:
    """Class ids, int64 (N,)."""
    return _tensor(arrays["labels"])


def decode_names(arrays: Arrays) -> tuple[str, ...]:
    """Class names by class id. Raises SchemaError."""
    return tuple(_text("class_names", name) for name in arrays["class_names"].tolist())


def decode_preprocessing(arrays: Arrays) -> Preprocessing:
    """The preprocessing, with its whitening if there is one."""
    whitening = None
    if f"{ZCA}/matrix" in arrays:
        whitening = Whitening(
            mean=_tensor(arrays[f"{ZCA}/mean"]),
            matrix=_tensor(arrays[f"{ZCA}/matrix"]),
            eps=float(arrays[f"{ZCA}/eps"]),
        )
    channels, height, width = arrays["preprocessing/image_shape"].tolist()
    return Preprocessing(
        mean=_tensor(arrays["preprocessing/mean"]),
        std=_tensor(arrays["preprocessing/std"]),
        image_shape=(channels, height, width),
        whitening=whitening,
    )


def decode_provenance(arrays: Arrays) -> Provenance:
    """The set's provenance. Raises SchemaError."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Provenance):
        key = f"provenance/{field.name}"
        if key in arrays:
            value = arrays[key].item()
            if ELEMENTS[key].holds_text:
                value = _text(key, value)
            values[field.name] = _json(key, value) if ELEMENTS[key].dtypes == ("json",) else value
    try:
        return Provenance(**values)
    except ConfigError as error:
        raise SchemaError(f"provenance: {error}") from error


def _texts(key: str, texts: Iterable[str]) -> Array:
    encoded = []
    for text in texts:
        if why := flaw(text):
            raise SchemaError(f"{key}: found {text!r}: {why}")
        encoded.append(text.encode())
    # HDF5 has no text type of length 0.
    return np.array(encoded, f"S{max([1, *map(len, encoded)])}")


def _scalar(key: str, value: Any) -> Array:
    expected = ELEMENTS[key].dtypes
    try:
        if expected == ("json",):
            # ASCII with sorted keys: equal objects give equal bytes, and undecodable path names survive.
            value = json.dumps(value, sort_keys=True, allow_nan=False)
            bounded_json.parse(value)  # as every reader will
        if ELEMENTS[key].holds_text:
            return _texts(key, [value]).reshape(())
        if expected == ("<f8",):
            return np.array(float(value), "<f8")
        number = operator.index(value)
        return np.array(number, expected[-1] if number >= 2**63 else "<i8")
    except (AttributeError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise SchemaError(f"{key}: {value!r:.60} cannot be written as {' or '.join(expected)} ({error})") from error


def _numbers(tensor: torch.Tensor) -> Array:
    array = tensor.detach().cpu().contiguous().numpy()
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def _text(key: str, value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise SchemaError(f"{key}: found bytes that are not UTF-8") from error
    if why := flaw(text):
        raise SchemaError(f"{key}: found {text!r}: {why}")
    return text


def _json(key: str, text: str) -> dict[str, Any]:
    try:
        value = bounded_json.parse(text)
    except bounded_json.OutOfBounds as error:
        raise SchemaError(f"{key}: {error}") from error
    except ValueError as error:
        raise SchemaError(f"{key}: found text that is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise SchemaError(f"{key}: found a JSON {type(value).__name__}, expected an object")
    return value

"""Arrays named images and labels, from any tool: .npz, .npy, a torch file with a dict or a pair, or a folder of two files.

Read only. KIP, FRePo, RFAD and others save these files: images (N, C, H, W) or (N, H, W, C), labels (N,) or one value for each
class. ``pixels`` is the coding of the images: true-colour ([0, 1]), bytes (0 to 255), standardised, or whitened.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.store.formats.coding import DATASET_CONDENSATION, Toolkit
from atom_plugin.store.formats.context import ImportContext
from atom_plugin.store.formats.labels import Labels, SoftReading, checked_labels, class_by_class
from atom_plugin.store.formats.npz import load_arrays
from atom_plugin.store.formats.tensors import (
    checked_images,
    load,
    one_array,
    plain_tensor,
)
from atom_plugin.store.formats.toolkit_coding import find_toolkit_coding
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing

IMAGE_NAMES = ("images", "image", "x", "x_train", "x_proto", "x_syn", "image_syn", "images_syn", "syn_images", "data")
LABEL_NAMES = (
    "labels",
    "label",
    "y",
    "y_train",
    "y_proto",
    "y_syn",
    "label_syn",
    "labels_syn",
    "syn_labels",
    "targets",
)
PIXELS = ("true-colour", "bytes", "standardised", "whitened")
_TOOLKIT = Toolkit(name="arrays", constants=DATASET_CONDENSATION)
_ROUNDING = 0.01


def read(
    path: Path,
    context: ImportContext,
    *,
    images: str | None = None,
    labels: str | None = None,
    pixels: str | None = None,
    soft_labels: str = "keep",
    label_kind: str | None = None,
    trust_pickle: bool = False,
) -> SyntheticSet:
    """``images`` and ``labels`` are the names of the two arrays, if they differ from the common ones.

    Soft labels that are not probabilities are scores: tools that write these files learn them by regression.
    """
    if pixels not in (None, *PIXELS):
        raise ConfigError(f"pixels must be one of {', '.join(PIXELS)}, not {pixels!r}")
    found = _arrays(path, context, trust_pickle=trust_pickle)
    values = plain_tensor(found[_name(path, found, images, IMAGE_NAMES, "images")], str(path), "(N, C, H, W)")
    held = _channels_first(values, str(path), context)
    chosen = pixels or _pixels_of(held, path, context)
    if chosen == "bytes":
        held = held.float() / 255
    held = checked_images(held.float(), str(path))
    name = _name(path, found, labels, LABEL_NAMES, "labels", absent=labels is None)
    if name is None:
        found_labels = Labels(classes=class_by_class(len(held), len(context.names()), str(path)))
        context.note("found no labels: assigned the images class by class, equally many to each")
    else:
        given = plain_tensor(found[name], str(path), "(N,)")
        flat = given.flatten() if given.ndim == 2 and given.shape[1] == 1 else given
        soft = SoftReading(soft_labels=soft_labels, label_kind=label_kind, usual="scores")
        found_labels = checked_labels(flat, len(held), str(path), context, soft=soft)
    coding = _coding(chosen, held, context)
    return context.assemble(held, found_labels.classes, coding, soft=found_labels.soft)


def _arrays(path: Path, context: ImportContext, *, trust_pickle: bool) -> Mapping[str, Any]:
    """Arrays by name, of any kind of file or folder."""
    if path.is_dir():
        files = sorted(item for item in path.iterdir() if item.suffix in (".npy", ".pt", ".pth") and item.is_file())
        wanted = [item for item in files if item.stem.casefold() in (*IMAGE_NAMES, *LABEL_NAMES)]
        return {item.stem: _single(item, context, trust_pickle=trust_pickle) for item in wanted}
    if path.suffix == ".npz":
        return load_arrays(path, context)
    found = _single(path, context, trust_pickle=trust_pickle)
    if isinstance(found, list | tuple) and len(found) == 2:
        return {"images": found[0], "labels": found[1]}
    if isinstance(found, dict):
        return {str(key): value for key, value in found.items()}
    return {"images": found}


def _single(path: Path, context: ImportContext, *, trust_pickle: bool) -> Any:
    if path.suffix == ".npy":
        return one_array(path, context)
    return load(path, context, trust_pickle=trust_pickle)


def _name(
    path: Path, found: Mapping[str, Any], given: str | None, known: tuple[str, ...], what: str, *, absent: bool = False
) -> Any:
    """The key of the images or labels; None if there is none and it may be ``absent``."""
    if given is not None:
        if given not in found:
            raise ConfigError(
                f"{path}: holds {_listed(found)}, no {given!r}; give one of these with --option {what}=NAME"
            )
        return given
    names = [key for key in found if key.casefold() in known]
    if len(names) == 1:
        return names[0]
    if not names and absent:
        return None
    how = f"none of {', '.join(known[:4])} …" if not names else f"several arrays that may be {what}"
    raise ConfigError(f"{path}: holds {_listed(found)}, {how}; name the {what} with --option {what}=NAME")


def _listed(found: Mapping[str, Any]) -> str:
    shapes = {str(key): tuple(getattr(value, "shape", ())) for key, value in list(found.items())[:6]}
    return ", ".join(f"{key} {shape}" if shape else key for key, shape in shapes.items()) or "nothing"


def _channels_first(images: torch.Tensor, where: str, context: ImportContext) -> torch.Tensor:
    """The array as (N, C, H, W), from that, (N, H, W, C) or (N, H, W). Raises StoreError for other shapes."""
    if images.is_complex() or images.dtype == torch.bool:
        raise StoreError(f"{where}: found images of type {images.dtype}, expected numbers; another array?")
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        context.note("images with channels last were transposed")
        return images.permute(0, 3, 1, 2)
    if images.ndim != 4:
        raise StoreError(f"{where}: found images of shape {tuple(images.shape)}, expected (N, C, H, W) or (N, H, W, C)")
    return images


def _pixels_of(images: torch.Tensor, path: Path, context: ImportContext) -> str:
    """The coding of the images, if their range shows it. Raises ConfigError if it does not."""
    if images.dtype == torch.uint8:
        return "bytes"
    low, high = (float(images.min()), float(images.max())) if images.numel() else (0.0, 0.0)
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise ConfigError(
            f"{path}: found pixels from {low:.3g} to {high:.3g}, which may be {', '.join(PIXELS[1:])}, or true "
            "colours beyond [0, 1]; name the coding with --option "
            f"pixels={'bytes' if low >= 0 and high > 2 else 'standardised'}"
        )
    context.note(
        "images were read as true colours on the [0, 1] scale, judged by their range; --option pixels=… sets "
        "another coding"
    )
    return "true-colour"


def _coding(pixels: str, images: torch.Tensor, context: ImportContext) -> Preprocessing | None:
    if pixels in ("true-colour", "bytes"):
        return None
    channels, height, width = images.shape[1:]
    return find_toolkit_coding(context, _TOOLKIT, (channels, height, width), zca=pixels == "whitened")

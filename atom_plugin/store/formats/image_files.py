"""Images as 8-bit files, a folder for each class, with an index of class ids and names."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atom_plugin.datasets.pixels import Pixels, decode, suffixes
from atom_plugin.datasets.unreadable import why_unreadable
from atom_plugin.errors import ConfigError, StoreError, shape_text
from atom_plugin.runtime import bounded_json
from atom_plugin.runtime.memory import machine_memory
from atom_plugin.store.formats.context import ImportContext
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import to_uint8

INDEX = "classes.json"
_SAVED_AS: dict[str, dict[str, Any]] = {"png": {}, "webp": {"lossless": True, "exact": True, "method": 6}}


@dataclass(frozen=True)
class Row:
    """A class of the index; ``folder`` is None if the class has no images, ``images`` 0 if the index does not count them."""

    label: int
    name: str
    folder: str | None
    images: int


def check_writable(held: SyntheticSet, image_format: str) -> None:
    """Raise ConfigError for images that 8-bit image files cannot store."""
    if image_format not in _SAVED_AS:
        raise ConfigError(f"image_format must be {' or '.join(_SAVED_AS)}, not {image_format!r}")
    channels = held.preprocessing.image_shape[0]
    if channels not in (1, 3):
        raise ConfigError(f"found images of {channels} channels, expected 1 or 3 for image files; export npz or pt")
    if channels == 1 and image_format == "webp":
        raise ConfigError("WebP has no grey images; leave image_format=webp out to write PNG")


def write_images(
    held: SyntheticSet, root: Path, image_format: str, folders: Sequence[str]
) -> tuple[list[tuple[str, int]], list[str]]:
    """Write ``root/<class>/<index>.<image_format>``; returns each file's path below root with its label, and notes.

    ``folders`` are the names of the classes' folders, by class id.
    """
    from PIL import Image

    true_colours = held.true_colour().detach().cpu()
    images, labels = to_uint8(true_colours), held.labels.cpu()
    written = []
    counts: Counter[int] = Counter()
    order = labels.argsort(stable=True)
    for label, image in zip(labels[order].tolist(), images[order], strict=True):
        if not counts[label]:
            (root / folders[label]).mkdir(parents=True)
        pixels = image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).contiguous().numpy()
        relative = f"{folders[label]}/{counts[label]:05d}.{image_format}"
        Image.fromarray(pixels).save(root / relative, **_SAVED_AS[image_format])
        written.append((relative, label))
        counts[label] += 1
    outside = int(((true_colours < 0) | (true_colours > 1)).sum())
    share = (
        f"; {outside / true_colours.numel():.1%} of the values were outside [0, 1] and were clipped" if outside else ""
    )
    notes = [f"images hold 8 bits per channel: true colours are rounded to 1/255{share}"]
    if held.preprocessing.whitening is not None:
        notes.append("the ZCA whitening was undone and is not in it")
    return written, [*notes, "preprocessing and provenance are not in it: keep the .h5 file"]


def write_index(held: SyntheticSet, path: Path, folders: Sequence[str]) -> None:
    """The index: id, name, number of images and, if it has images, folder of every class; ``folders`` by class id."""
    rows: list[dict[str, Any]] = []
    counts = held.labels.bincount(minlength=len(held.class_names)).tolist()
    for label, (name, folder) in enumerate(zip(held.class_names, folders, strict=True)):
        place = {"folder": folder} if counts[label] else {}
        rows.append({"id": label, "name": name, **place, "images": counts[label]})
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="ascii")


def read_index(path: Path, context: ImportContext) -> list[Row]:
    """The rows of an index in the order of ids; some ids may be absent. Raises StoreError."""
    with context.opened(path) as file:
        try:
            found = bounded_json.parse(file.read().decode())
            rows = [Row(row["id"], row["name"], row.get("folder"), row.get("images", 0)) for row in found]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{path}: is not a list of classes with id and name ({error}); it is damaged") from error
    for row in rows:
        counted = all(type(number) is int and 0 <= number < 2**31 for number in (row.label, row.images))
        if not counted or not isinstance(row.name, str) or not _is_name(row.folder):
            raise StoreError(
                f"{path}: found the class {row}, expected an id and a count of images of 0 or more, a name, and a "
                "folder in this folder"
            )
    if len({row.label for row in rows}) < len(rows):
        raise StoreError(f"{path}: gives an id twice; it is damaged")
    return sorted(rows, key=lambda row: row.label)


def carried_names(rows: Sequence[Row]) -> tuple[str, ...] | None:
    """Class names by id, if the index leaves none out."""
    complete = [row.label for row in rows] == list(range(len(rows)))
    return tuple(row.name for row in rows) if complete and rows else None


def refuse_incomplete(path: Path, missing: Sequence[str]) -> None:
    """Raise StoreError if images are ``missing`` from an export, because the rest would be a smaller set."""
    if missing:
        named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise StoreError(
            f"{path}: lacks {named}, which the index {INDEX} counts; the export is incomplete, copy it whole"
        )


def files_of(folder: Path) -> list[Path]:
    """The image files of a class, by name. Raises StoreError if there is no such folder."""
    if not folder.is_dir():
        raise StoreError(f"{folder}: there is no such folder, which the index names; the export is incomplete")
    return sorted(
        item for item in folder.iterdir() if item.suffix.lower() in suffixes() and not item.name.startswith(".")
    )


def read_images(files: Sequence[Path], context: ImportContext) -> torch.Tensor:
    """uint8 (N, C, H, W), all of one shape. Raises StoreError."""
    decoded: list[Pixels] = []
    for file in files:
        with context.opened(file):
            try:
                pixels = decode(file)
            except Exception as error:  # PIL raises many kinds for a damaged file
                what = why_unreadable(str(file), error)
                raise StoreError(f"{file}: cannot be read as an image: {what}") from error
        if decoded and pixels.shape != decoded[0].shape:
            raise StoreError(
                f"{file}: is {shape_text(pixels.shape)}, but {files[0].name} is {shape_text(decoded[0].shape)}; "
                "a set has images of one shape"
            )
        if not decoded and pixels.nbytes * len(files) > machine_memory() // 2:
            raise StoreError(
                f"{file.parent}: {len(files)} images of {shape_text(pixels.shape)} take "
                f"{pixels.nbytes * len(files) / 1e9:.0f} GB, more than half of this machine's memory; "
                "a set has a few small images per class"
            )
        decoded.append(pixels)
    return torch.from_numpy(np.stack(decoded))


def _is_name(folder: Any) -> bool:
    """Whether it is None or names something directly in a folder: an index must not lead elsewhere."""
    return folder is None or (
        isinstance(folder, str) and folder not in ("", ".", "..") and not set(folder) & set("/\\\0")
    )

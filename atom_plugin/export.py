"""A synthetic set in other programs' formats: numpy's npz, a torch file, a folder of PNG images."""

from __future__ import annotations

import io
import json
import os
import shutil
import unicodedata
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atom_plugin.atomic import reason, refuse_existing, temporary_beside, write_bytes
from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.synthetic_set import SyntheticSet

FORMATS = ("npz", "pt", "folder")
PIXELS = ("preprocessed", "true-colour")
FOLDER_INDEX = "classes.json"
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in range(1, 10))}
_LONGEST = 100


def export(
    synthetic_set: SyntheticSet, path: str | Path, *, format: str, pixels: str | None = None, force: bool = False
) -> None:
    """Write the set to ``path`` in one of ``FORMATS``, atomically; equal sets give equal bytes.

    ``pixels``: "preprocessed" as stored (the default of npz and pt), or "true-colour", the preprocessing undone, on
    the [0, 1] scale, not clamped; PNG images are always true colours, clamped and rounded to 8 bits.
    Raises ConfigError for options that do not fit, StoreError where writing fails.
    """
    chosen = pixels or ("true-colour" if format == "folder" else "preprocessed")
    if format not in FORMATS or chosen not in PIXELS:
        raise ConfigError(f"found format {format!r} and pixels {chosen!r}, expected one of {FORMATS} and of {PIXELS}")
    target = Path(path)
    if format == "folder":
        if chosen != "true-colour":
            raise ConfigError("PNG images hold true colours only; export preprocessed pixels as npz or pt")
        _write_folder(synthetic_set, target, force=force)
        return
    refuse_existing(target, force=force)
    buffer = io.BytesIO()
    tensors = _tensors(synthetic_set, chosen)
    provenance = asdict(synthetic_set.provenance)
    if format == "npz":
        contents: dict[str, Any] = {key: tensor.numpy() for key, tensor in tensors.items()}
        # Text as numpy text: arrays of Python objects would need a pickle to be read.
        contents["class_names"] = np.array(synthetic_set.class_names, dtype=str)
        contents |= {"pixels": np.array(chosen), "provenance": np.array(json.dumps(provenance))}
        np.savez(buffer, **contents)
    else:
        names = list(synthetic_set.class_names)
        torch.save({**tensors, "class_names": names, "pixels": chosen, "provenance": provenance}, buffer)
    write_bytes(target, buffer.getbuffer(), force=force)


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Images on the [0, 1] scale to uint8, clamped and rounded."""
    return images.clamp(0, 1).mul(255).round().to(torch.uint8)


def folder_names(class_names: tuple[str, ...]) -> list[str]:
    """A file name for each class: valid on every common system, at most 100 bytes, and no two alike."""
    taken: set[str] = set()
    names = []
    for label, class_name in enumerate(class_names):
        clean = _clean(class_name)
        name, attempt = clean, 0
        while name.casefold() in taken:
            name = f"{clean}_{label}" if attempt == 0 else f"{clean}_{label}_{attempt}"
            attempt += 1
        taken.add(name.casefold())
        names.append(name)
    return names


def _tensors(synthetic_set: SyntheticSet, pixels: str) -> dict[str, torch.Tensor]:
    preprocessing = synthetic_set.preprocessing
    images = synthetic_set.images if pixels == "preprocessed" else synthetic_set.true_colour()
    tensors = {"images": images, "labels": synthetic_set.labels, "mean": preprocessing.mean, "std": preprocessing.std}
    if preprocessing.whitening is not None:
        tensors["zca_mean"] = preprocessing.whitening.mean
        tensors["zca_matrix"] = preprocessing.whitening.matrix
        tensors["zca_eps"] = torch.tensor(preprocessing.whitening.eps, dtype=torch.float64)
    return {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}


def _write_folder(synthetic_set: SyntheticSet, path: Path, *, force: bool) -> None:
    _refuse_folder(path, force=force)
    temporary = temporary_beside(path)
    try:
        temporary.mkdir()
        _write_images(synthetic_set, temporary)
        if path.exists():
            # Folders cannot be exchanged in one step: the old one goes only when the new one is complete.
            shutil.rmtree(path)
        temporary.rename(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {reason(error, path)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _refuse_folder(path: Path, *, force: bool) -> None:
    if not os.path.lexists(path):
        return
    if not force:
        raise StoreError(f"{path}: already exists and is kept; choose another name, or allow replacing it with --force")
    if path.is_symlink() or not path.is_dir() or not ((path / FOLDER_INDEX).is_file() or not any(path.iterdir())):
        # A folder is deleted whole: never one that holds somebody's own files.
        raise StoreError(f"{path}: is not a folder that this export wrote and is not replaced; choose another name")


def _write_images(synthetic_set: SyntheticSet, folder: Path) -> None:
    from PIL import Image

    images = to_uint8(synthetic_set.true_colour().detach().cpu())
    channels = images.shape[1]
    if channels not in (1, 3):
        raise ConfigError(f"found images of {channels} channels, expected 1 or 3 for PNG; export npz or pt")
    index = []
    names = folder_names(synthetic_set.class_names)
    for label in synthetic_set.classes:
        held = images[synthetic_set.labels.cpu() == label]
        (folder / names[label]).mkdir()
        for number, image in enumerate(held):
            pixels = image[0].numpy() if channels == 1 else image.permute(1, 2, 0).contiguous().numpy()
            Image.fromarray(pixels).save(folder / names[label] / f"{number:05d}.png")
        index.append(
            {"id": label, "name": synthetic_set.class_names[label], "folder": names[label], "images": len(held)}
        )
    (folder / FOLDER_INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="ascii")


def _clean(class_name: str) -> str:
    """``class_name`` without what some file system refuses; "class" where nothing is left."""
    text = unicodedata.normalize("NFC", class_name)
    text = "".join("_" if c in '/\\:*?"<>|' or not (c.isprintable()) else c for c in text)
    text = text.encode(errors="replace")[:_LONGEST].decode(errors="ignore").strip(" .") or "class"
    return f"{text}_" if text.partition(".")[0].casefold() in _RESERVED else text

"""A dataset that Hugging Face's `datasets.load_dataset` reads: image files, metadata.jsonl, and a card (README.md).

``PATH/train/<class>/<index>.png`` with ``PATH/train/metadata.jsonl`` (file_name and label of each image), PATH/README.md with
the features in its header, so that labels become a ClassLabel, and classes.json for the import.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from atom_plugin.errors import StoreError
from atom_plugin.runtime import bounded_json
from atom_plugin.runtime.folders import write_folder
from atom_plugin.runtime.versions import __version__
from atom_plugin.store.formats import image_files
from atom_plugin.store.formats.context import ImportContext
from atom_plugin.store.formats.file_names import folder_names
from atom_plugin.store.formats.image_files import INDEX
from atom_plugin.store.synthetic_set import SyntheticSet

_SPLIT, _METADATA, _CARD = "train", "metadata.jsonl", "README.md"


def write(synthetic_set: SyntheticSet, path: Path, *, force: bool, image_format: str = "png") -> list[str]:
    """``image_format``: png, or webp (lossless, colour only)."""
    image_files.check_writable(synthetic_set, image_format)
    names, notes = _distinct(synthetic_set.class_names)

    folders = folder_names(synthetic_set.class_names)

    def fill(folder: Path) -> None:
        written, losses = image_files.write_images(synthetic_set, folder / _SPLIT, image_format, folders)
        notes.extend(losses)
        lines = [json.dumps({"file_name": name, "label": label}, ensure_ascii=False) for name, label in written]
        (folder / _SPLIT).mkdir(exist_ok=True)
        (folder / _SPLIT / _METADATA).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        (folder / _CARD).write_text(_card(synthetic_set, names, path.absolute().name), encoding="utf-8")
        image_files.write_index(synthetic_set, folder / INDEX, folders)

    write_folder(path, fill, force=force)
    return notes


def read(path: Path, context: ImportContext, *, split: str = _SPLIT) -> SyntheticSet:
    """The images of one ``split``: a folder with metadata.jsonl, whose label is the class id of each image."""
    folder = path / str(split)
    if not (folder / _METADATA).is_file():
        raise StoreError(
            f"{path}: holds no {split}/{_METADATA}; give a folder that does, or import it as the format folder"
        )
    files, labels = _metadata(folder, context)
    image_files.refuse_incomplete(path, [f"{split}/{file}" for file in files if not (folder / file).exists()])
    names = None
    if (path / INDEX).is_file():
        rows = image_files.read_index(path / INDEX, context)
        names = image_files.carried_names(rows)
        if split == _SPLIT:
            held = Counter(labels)
            lines = [
                f"{row.images} lines of {row.name!r} in {_METADATA}" for row in rows if held[row.label] < row.images
            ]
            image_files.refuse_incomplete(path, lines)
    images = image_files.read_images([folder / file for file in files], context)
    return context.assemble(images, torch.tensor(labels), None, carried_names=names)


def _metadata(folder: Path, context: ImportContext) -> tuple[list[str], list[int]]:
    path = folder / _METADATA
    with context.opened(path) as file:
        try:
            rows: list[Any] = [bounded_json.parse(line) for line in file.read().decode().splitlines() if line.strip()]
        except ValueError as error:
            raise StoreError(f"{path}: holds a line that is not JSON ({error}); it is damaged") from error
    files, labels = [], []
    for number, row in enumerate(rows, start=1):
        name, label = (row.get("file_name"), row.get("label")) if isinstance(row, dict) else (None, None)
        inside = (
            isinstance(name, str) and name and not PurePosixPath(name).is_absolute() and ".." not in name.split("/")
        )
        if not inside or "\0" in str(name) or type(label) is not int or not 0 <= label < 2**31:
            raise StoreError(
                f"{path}: row {number} has file_name {name!r} and label {label!r}, expected a file in it and a class id"
            )
        files.append(str(name))
        labels.append(label)
    if not files:
        raise StoreError(f"{path}: lists no images; it is damaged")
    return files, labels


def _distinct(class_names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Names for a ClassLabel, which must differ, and a note if some had to change."""
    names: list[str] = []
    taken: set[str] = set()
    for label, name in enumerate(class_names):
        chosen = name if name not in taken else f"{name} ({label})"
        while chosen in taken:
            chosen += "'"
        taken.add(chosen)
        names.append(chosen)
    changed = sum(new != old for new, old in zip(names, class_names, strict=True))
    return names, [f"{changed} class names occur twice and got their id in the card"] if changed else []


def _card(held: SyntheticSet, names: list[str], title: str) -> str:
    made = held.provenance
    labels = "".join(f"          {_quoted(str(label))}: {_quoted(name)}\n" for label, name in enumerate(names))
    source = made.source.get("name", "a source that is not named")
    shape = " x ".join(map(str, held.preprocessing.image_shape))
    return f"""---
pretty_name: {_quoted(title)}
task_categories:
- image-classification
tags:
- dataset-distillation
configs:
- config_name: default
  data_files:
  - split: {_SPLIT}
    path: {_SPLIT}/**
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
{labels}---
# {_line(title)}

{len(held)} images of {shape} in {len(held.classes)} classes, made by {_line(made.method)} from {_line(str(source))} with
atom-plugin {__version__} ({made.iterations} iterations, seed {made.seed}).

Preprocessing where it was made: {_line(held.preprocessing.describe())}.
These files hold true colours, clipped and rounded to 8 bits. Networks trained on them need the same preprocessing for their
test images.
"""


def _quoted(text: str) -> str:
    """A YAML string in double quotes."""
    escaped = ("\\" + c if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)
    return f'"{"".join(escaped)}"'


def _line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())

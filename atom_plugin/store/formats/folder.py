"""A folder of PNG or lossless WebP images for each class, true colours in 8 bits, with an index classes.json.

``PATH/<class>/<index>.png``. torchvision.datasets.ImageFolder reads it, but numbers the classes in the order of their folders;
classes.json gives id, name and folder of each, since a class name need not be a valid file name. SRe2L and RDED number their
folders (new000, 00000): if classes are given and none has such a name, the numbers are their ids.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.runtime.folders import write_folder
from atom_plugin.store.formats import image_files
from atom_plugin.store.formats.context import ImportContext
from atom_plugin.store.formats.file_names import folder_names
from atom_plugin.store.formats.image_files import INDEX
from atom_plugin.store.synthetic_set import SyntheticSet


def write(
    synthetic_set: SyntheticSet,
    path: Path,
    *,
    force: bool,
    pixels: str | None = None,
    image_format: str = "png",
    layout: str = "names",
) -> list[str]:
    """``image_format``: png, or webp (lossless, colour only). ``pixels`` can only be true-colour.

    ``layout`` "rded": folders are numbered 00000, 00001 and so on, as RDED's validation expects.
    """
    if pixels not in (None, "true-colour"):
        raise ConfigError(f"image files can store only true colours, not {pixels!r} pixels; export those as npz or pt")
    image_files.check_writable(synthetic_set, image_format)
    folders, notes = _folders(synthetic_set, layout)

    def fill(folder: Path) -> None:
        notes.extend(image_files.write_images(synthetic_set, folder, image_format, folders)[1])
        image_files.write_index(synthetic_set, folder / INDEX, folders)

    write_folder(path, fill, force=force)
    return notes


def _folders(held: SyntheticSet, layout: str) -> tuple[list[str], list[str]]:
    """The name of every class's folder, and notes. Raises ConfigError for a set that RDED cannot read."""
    if layout == "names":
        return folder_names(held.class_names), []
    if layout != "rded":
        raise ConfigError(f"layout must be names or rded, not {layout!r}")
    counts = held.labels.bincount(minlength=len(held.class_names)).tolist()
    if len(set(counts)) > 1 or not sum(counts):
        raise ConfigError(
            f"RDED needs equally many images of every class, found {min(counts, default=0)} to {max(counts, default=0)}; leave "
            "layout=rded out"
        )
    note = f"RDED's validation reads it with --ipc {counts[0]} --factor 1, and takes soft labels only from its teacher"
    return [f"{label:05d}" for label in range(len(counts))], [note]


def read(path: Path, context: ImportContext) -> SyntheticSet:
    """An export of this package, or any folder of class folders whose names are, or are made from, the class names."""
    if not path.is_dir():
        raise StoreError(f"{path}: is not a folder, expected one with a folder of images for each class; give its name")
    if (path / INDEX).is_file():
        rows = image_files.read_index(path / INDEX, context)
        names = image_files.carried_names(rows)
        places = {row.label: row.folder for row in rows if row.folder is not None}
        image_files.refuse_incomplete(path, _missing(path, rows))
    else:
        present = sorted(item.name for item in path.iterdir() if item.is_dir() and not item.name.startswith("."))
        names, places = _without_index(path, present, context)
    files, labels = [], []
    for label, folder in places.items():
        found = image_files.files_of(path / folder)
        files += found
        labels += [label] * len(found)
    if not files:
        raise StoreError(f"{path}: holds no images in class folders; another format?")
    images = image_files.read_images(files, context)
    return context.assemble(images, torch.tensor(labels), None, carried_names=names)


def _missing(path: Path, rows: list[image_files.Row]) -> list[str]:
    """The images that the index counts but that are missing, by their names in an export."""
    missing = []
    for row in rows:
        held = [] if row.folder is None else image_files.files_of(path / row.folder)
        if row.folder is not None and len(held) < row.images:
            present = {file.stem for file in held}
            ending = held[0].suffix if held else ".png"
            names = [f"{row.folder}/{number:05d}" for number in range(row.images) if f"{number:05d}" not in present]
            missing += [f"{name}{ending}" for name in names]
    return missing


def _without_index(
    path: Path, present: list[str], context: ImportContext
) -> tuple[tuple[str, ...] | None, dict[int, str]]:
    """Names in the index, and folders by class id: of the given classes, or else of all, in the order of their names."""
    if context.class_names is None and context.like is None and context.dataset is None:
        context.note(
            "classes are numbered in the order of their folders; --like, --dataset or --classes would set the numbers"
        )
        return tuple(present), dict(enumerate(present))
    given = context.names()
    numbered = {name: re.fullmatch(r"(?:new|class|c)?_?(\d+)", name) for name in present}
    if present and all(numbered.values()) and not set(present) <= set(folder_names(given)):
        places = {int(found[1]): name for name, found in numbered.items() if found}
        if len(places) < len(present) or max(places) >= len(given):
            raise ConfigError(
                f"{path}: has folders numbered up to {max(places)} ({', '.join(present[:3])} …), but {len(given)} "
                "classes were given; give the classes of its source"
            )
        context.note(
            f"the numbers of the folders ({present[0]} …) were read as class ids: {present[-1]} is {given[max(places)]!r}"
        )
        return None, dict(sorted(places.items()))
    expected = {name: label for label, name in enumerate(folder_names(given))}
    unknown = [name for name in present if name not in expected]
    if unknown:
        raise ConfigError(
            f"{path}: has the folder {unknown[0]!r}, which is not one of the given classes; rename it, or give its "
            "class as well"
        )
    return None, {expected[name]: name for name in present}

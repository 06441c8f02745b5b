"""Folders of a few files, with file names that every file system accepts."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from atom_plugin.errors import StoreError
from atom_plugin.runtime.folders import write_folder

_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in range(1, 10))}
_INDEXES = {"classes.json", "metadata.jsonl"}  # files of the formats that are next to class folders
_LONGEST = 100


def write_files(path: Path, files: Mapping[str, bytes | memoryview], *, force: bool) -> None:
    """Make the folder ``path`` of ``files`` by name, as :func:`~atom_plugin.runtime.folders.write_folder` does."""

    def fill(folder: Path) -> None:
        for name, data in files.items():
            (folder / name).write_bytes(data)

    write_folder(path, fill, force=force)


def require_folder(path: Path, holding: Collection[str]) -> None:
    """Raise StoreError unless ``path`` is a folder with files of these names."""
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        raise StoreError(f"{path}: {what}, expected a folder with {' and '.join(holding)}; give its name")
    absent = [name for name in holding if not (path / name).is_file()]
    if absent:
        raise StoreError(f"{path}: holds no {' and no '.join(absent)}; give the folder that does, or another format")


def folder_names(class_names: Sequence[str]) -> list[str]:
    """A file name for each class: valid on every common system, at most 100 bytes, and unique."""
    taken: set[str] = set()
    names = []
    for label, class_name in enumerate(class_names):
        clean = clean_name(class_name)
        name, attempt = clean, 0
        while name.casefold() in taken:
            name = f"{clean}_{label}" if attempt == 0 else f"{clean}_{label}_{attempt}"
            attempt += 1
        taken.add(name.casefold())
        names.append(name)
    return names


def clean_name(name: str) -> str:
    """``name`` without characters that some file systems refuse; "class" if nothing is left."""
    text = unicodedata.normalize("NFC", name)
    text = "".join("_" if c in '/\\:*?"<>|' or not (c.isprintable()) else c for c in text)
    text = text.encode(errors="replace")[:_LONGEST].decode(errors="ignore").strip(" .") or "class"
    taken = text.partition(".")[0].casefold() in _RESERVED or text.casefold() in _INDEXES
    return f"{text}_" if taken else text

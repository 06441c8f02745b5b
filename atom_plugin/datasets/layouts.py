"""Which files of a folder are images of which class and split, by name and ``stat`` alone: nothing is opened here."""

from __future__ import annotations

import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from atom_plugin.datasets.common import stratified_holdout
from atom_plugin.datasets.pixels import SUFFIXES
from atom_plugin.errors import SourceError

_logger = logging.getLogger("atom_plugin")
_TEST_NAMES = ("test", "val")
_LAYOUTS = "expected DIR/train/<class>/... with DIR/test/ or DIR/val/, or DIR/<class>/..."


class ImageFile(NamedTuple):
    """A file below the root: ``path`` relative to it with forward slashes, size in bytes, mtime in ns."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The labelled files of a folder. ``seeded`` says whether seed and fraction made the split."""

    root: Path
    class_names: tuple[str, ...]
    train: list[ImageFile]
    train_labels: list[int]
    test: list[ImageFile]
    test_labels: list[int]
    seeded: bool


def find_layout(root: Path, *, seed: int, test_fraction: float) -> Layout:
    """Recognise how ``root`` is laid out.

    - ``train/<class>/...`` with ``test/<class>/...`` or ``val/<class>/...``. Where both exist, ``test`` is used
      unless it holds no class folder of ``train`` (many sets ship an unlabelled ``test``).
    - Tiny-ImageNet: ``train/<wnid>/images/`` with ``val/val_annotations.txt``.
    - ``<class>/...`` alone: about ``test_fraction`` of each class becomes the test split, by ``seed``.

    Classes are the folder names, sorted; ``words.txt`` (wnid, tab, words) renames them. Images are found at any
    depth below their class folder and through links; hidden files and other files are ignored.
    Raises SourceError, which says what was found, for anything else.
    """
    if not root.is_dir():
        found = "is a file (an archive must be unpacked first)" if root.exists() else "does not exist"
        raise SourceError(f"the image folder {root} {found}; {_LAYOUTS}")
    folders = _folders(root)
    splits = [name for name in _TEST_NAMES if name in folders]
    if "train" in folders and splits:
        return _ready_split(root, splits)
    # A class may be called "train" or "test" (CIFAR-100 has trains), but then its images lie right in that folder.
    for name in ("train", *splits):
        if name in folders and _folders(root / name):
            missing = "test/ nor val/" if name == "train" else "train/"
            neither = "neither " if name == "train" else "no "
            raise SourceError(
                f"{root} has {name}/ but {neither}{missing}; add it, or pass {root / name} as the folder "
                "to have it split by a seed"
            )
    return _single_tree(root, folders, seed, test_fraction)


def _single_tree(root: Path, folders: Sequence[str], seed: int, test_fraction: float) -> Layout:
    if len(folders) < 2:
        raise _too_few_classes(root, folders)
    files, labels = _labelled(root, "", folders)
    class_names = _human_names(root, folders)
    held_out = stratified_holdout(
        [file.path for file in files], labels, fraction=test_fraction, seed=seed, class_names=class_names
    )
    pairs = list(zip(files, labels, held_out, strict=True))
    return Layout(
        root=root,
        class_names=class_names,
        train=[file for file, _, out in pairs if not out],
        train_labels=[label for _, label, out in pairs if not out],
        test=[file for file, _, out in pairs if out],
        test_labels=[label for _, label, out in pairs if out],
        seeded=True,
    )


def _ready_split(root: Path, splits: Sequence[str]) -> Layout:
    classes = _folders(root / "train")
    if len(classes) < 2:
        raise _too_few_classes(root / "train", classes)
    train, train_labels = _labelled(root, "train", classes)
    if (root / "val" / "val_annotations.txt").is_file():
        test, test_labels = _annotated(root, classes)
    else:
        test, test_labels = _test_split(root, classes, splits)
    return Layout(
        root=root,
        class_names=_human_names(root, classes),
        train=train,
        train_labels=train_labels,
        test=test,
        test_labels=test_labels,
        seeded=False,
    )


def _test_split(root: Path, classes: Sequence[str], splits: Sequence[str]) -> tuple[list[ImageFile], list[int]]:
    for name in splits:
        found = _folders(root / name)
        if not set(found) & set(classes):
            continue
        extra = sorted(set(found) - set(classes))
        if extra:
            raise SourceError(
                f"{root / name} has {_some(extra)}, which {root / 'train'} lacks; every class needs training images"
            )
        absent = sorted(set(classes) - set(found))
        if absent:
            _logger.warning("%s has no folder for %s: tests leave these classes out", root / name, _some(absent))
        return _labelled(root, name, classes)
    raise SourceError(
        f"no class of {root / 'train'} ({_some(classes)}) has a folder in {' or '.join(f'{name}/' for name in splits)}; "
        f"{_LAYOUTS}"
    )


def _annotated(root: Path, classes: Sequence[str]) -> tuple[list[ImageFile], list[int]]:
    """Tiny-ImageNet's validation images, in the order of their names within each class."""
    annotations = root / "val" / "val_annotations.txt"
    label_of = {name: label for label, name in enumerate(classes)}
    present = {file.path: file for file in _images_below(root, "val/images")}
    found: list[tuple[int, ImageFile]] = []
    for number, line in enumerate(_lines(annotations), start=1):
        name, _, rest = line.partition("\t")
        wnid, file = rest.partition("\t")[0], present.get(f"val/images/{name}")
        if wnid not in label_of:
            raise SourceError(f"{annotations}, line {number}: the class {wnid!r} has no folder in {root / 'train'}")
        if file is None:
            raise SourceError(f"{annotations}, line {number}: there is no image {root / 'val' / 'images' / name}")
        found.append((label_of[wnid], file))
    if not found:
        raise SourceError(f"{annotations} names no image; expected lines of file name, tab, class")
    found.sort()
    return [file for _, file in found], [label for label, _ in found]


def _labelled(root: Path, below: str, classes: Sequence[str]) -> tuple[list[ImageFile], list[int]]:
    """The images of each class that ``root/below`` has a folder for, class by class, sorted by path."""
    files: list[ImageFile] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        relative = f"{below}/{name}" if below else name
        if not (root / relative).is_dir():
            continue
        members = sorted(_images_below(root, relative))
        if not members:
            raise SourceError(
                f"the class folder {root / relative} holds no images (known endings: {' '.join(SUFFIXES)}); "
                "add some or remove the folder"
            )
        files += members
        labels += [label] * len(members)
    return files, labels


def _images_below(
    root: Path, relative: str, ancestors: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[ImageFile]:
    folder = root / relative
    try:
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        if here in ancestors:
            raise SourceError(f"{folder} is a link to a folder that contains it; remove the link")
        with os.scandir(folder) as entries:
            for entry in entries:
                path = f"{relative}/{entry.name}"
                if _ignored(entry.name):
                    continue
                if entry.is_dir():
                    yield from _images_below(root, path, ancestors | {here})
                elif entry.name.lower().endswith(SUFFIXES):
                    file = entry.stat()
                    if stat.S_ISREG(file.st_mode):  # opening a pipe would wait for ever
                        yield ImageFile(path, file.st_size, file.st_mtime_ns)
    except OSError as error:
        raise SourceError(f"cannot look into {folder} ({error.strerror}: {error.filename})") from error


def _folders(root: Path) -> list[str]:
    try:
        with os.scandir(root) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not _ignored(entry.name))
    except OSError as error:
        raise SourceError(f"cannot look into {root} ({error.strerror})") from error


def _ignored(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"  # what zip files made on a Mac leave behind


def _human_names(root: Path, classes: Sequence[str]) -> tuple[str, ...]:
    """The first word that ``words.txt`` has for each class, with the class behind it where two share the word."""
    if not (root / "words.txt").is_file():
        return tuple(classes)
    wanted = set(classes)
    words = {}
    for line in _lines(root / "words.txt"):
        wnid, _, text = line.partition("\t")
        if wnid in wanted and text.strip():
            words[wnid] = text.split(",")[0].strip()
    names = [words.get(name, name) for name in classes]
    uses = Counter(names)
    return tuple(name if uses[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(names, classes, strict=True))


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"cannot read {path} ({error}); expected tab-separated UTF-8 text") from error


def _too_few_classes(folder: Path, classes: Sequence[str]) -> SourceError:
    if classes:
        inside = folder / classes[0]
        return SourceError(
            f"{folder} holds one class folder only ({classes[0]}); at least two are needed. If the classes lie "
            f"within it, pass {inside}"
        )
    if any(path.name.lower().endswith(SUFFIXES) for path in folder.iterdir()):
        return SourceError(
            f"{folder} holds images but no class folders; put the images of each class into a folder of its own, "
            f"or, if this is itself the folder of one class, pass {folder.parent}"
        )
    return SourceError(f"{folder} holds no images; {_LAYOUTS}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

"""Find the class and split of each image file in a folder, by name and ``stat`` alone, without opening files."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from atom_plugin.datasets.class_names import (
    composed,
    human_names,
    in_class_order,
    lines_of,
    look_alikes,
    some_names,
    spelt,
)
from atom_plugin.datasets.common import stratified_holdout
from atom_plugin.datasets.pixels import suffixes
from atom_plugin.datasets.walking import ImageFile, Walk
from atom_plugin.errors import SourceError

_logger = logging.getLogger("atom_plugin")
# Folded in case. Of several test folders the one named first here is used.
_TRAIN_NAMES = ("train", "training")
_TEST_NAMES = ("test", "testing", "val", "valid", "validation", "dev")
_ANNOTATIONS = "val_annotations.txt"
_LAYOUTS = "expected DIR/train/<class>/... with DIR/test/ or DIR/val/, or DIR/<class>/..."


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The labelled files of a folder. ``seeded``: whether seed and fraction made the split."""

    root: Path
    class_names: tuple[str, ...]
    train: list[ImageFile]
    train_labels: list[int]
    test: list[ImageFile]
    test_labels: list[int]
    seeded: bool


def find_layout(
    root: Path, *, seed: int, test_fraction: float, class_order: str | None = None, follow_links: bool = False
) -> Layout:
    """Recognise how ``root`` is laid out.

    - ``train/<class>/...`` with ``test/<class>/...`` or ``val/<class>/...``. Where both exist, ``test`` is used
      unless it holds no class folder of ``train`` (many sets ship an unlabelled ``test``). Case does not matter, and
      :data:`_TRAIN_NAMES` and :data:`_TEST_NAMES` are other names for the same.
    - Tiny-ImageNet: ``train/<wnid>/images/`` with ``val/val_annotations.txt``.
    - ``<class>/...`` alone: about ``test_fraction`` of each class becomes the test split, by ``seed``.

    Classes are the folder names in the order that ``class_order`` names (see
    :func:`~atom_plugin.datasets.class_names.in_class_order`); ``words.txt`` (wnid, tab, words) renames them. Which files and
    links below a class folder count is told in :class:`~atom_plugin.datasets.walking.Walk`.
    Raises SourceError, which says what was found, for anything else.
    """
    if not root.is_dir():
        found = "is a file (an archive must be unpacked first)" if root.exists() else "does not exist"
        raise SourceError(f"the image folder {root} {found}; {_LAYOUTS}")
    walk = Walk(root, follow_links=follow_links)
    folders = walk.folders()
    train = _train_folder(root, folders)
    tests = sorted(
        (name for name in folders if name.casefold() in _TEST_NAMES),
        key=lambda name: (_TEST_NAMES.index(name.casefold()), name),
    )
    if train is not None and tests:
        layout = _ready_split(walk, train, tests, class_order)
    else:
        _refuse_half_a_split(walk, folders, train, tests)
        layout = _single_tree(walk, in_class_order(folders, class_order), seed, test_fraction)
    walk.say_left_out()
    return layout


def _train_folder(root: Path, folders: Sequence[str]) -> str | None:
    found = [name for name in folders if name.casefold() in _TRAIN_NAMES]
    if len(found) > 1:
        raise SourceError(
            f"{root} has {some_names(found)}, which all name training images; keep one, and rename the others"
        )
    return found[0] if found else None


def _refuse_half_a_split(walk: Walk, folders: Sequence[str], train: str | None, tests: Sequence[str]) -> None:
    """Raise SourceError for folders that look like splits but have unknown names.

    A class may be called "train" or "test" (CIFAR-100 has trains), but then its images are directly in that folder.
    """
    for name in [*([train] if train else []), *tests]:
        if walk.folders(name):
            missing = "neither test/ nor val/" if name == train else "no train/"
            raise SourceError(
                f"{walk.root} has {name}/ but {missing}; add it, or pass {walk.root / name} as the folder to split "
                "it by a seed"
            )
    likely = [name for name in folders if re.match("train|test|val|eval|dev|holdout", name.casefold())]
    inside = {name: set(walk.folders(name)) for name in likely}
    alike = [name for name in likely if any(len(inside[name] & inside[other]) > 1 for other in likely if other != name)]
    if alike:
        raise SourceError(
            f"{walk.root} has {some_names(alike)} with the same folders inside: they look like splits, not classes; "
            "rename them to train/ and test/"
        )


def _single_tree(walk: Walk, folders: Sequence[str], seed: int, test_fraction: float) -> Layout:
    root = walk.root
    if len(folders) < 2:
        raise _too_few_classes(root, folders)
    _tell_look_alikes(root, folders)
    files, labels = _labelled(walk, "", dict(zip(folders, range(len(folders)), strict=True)))
    return split_by_seed(root, human_names(root, folders), files, labels, seed=seed, test_fraction=test_fraction)


def split_by_seed(
    root: Path,
    class_names: tuple[str, ...],
    files: Sequence[ImageFile],
    labels: Sequence[int],
    *,
    seed: int,
    test_fraction: float,
) -> Layout:
    """Files in the order of their labels and names, split by ``seed``. Raises SourceError for a class of one file."""
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


def _ready_split(walk: Walk, train_name: str, tests: Sequence[str], class_order: str | None) -> Layout:
    root = walk.root
    classes = in_class_order(walk.folders(train_name), class_order)
    if len(classes) < 2:
        raise _too_few_classes(root / train_name, classes)
    _tell_look_alikes(root / train_name, classes)
    train, train_labels = _labelled(walk, train_name, {name: label for label, name in enumerate(classes)})
    annotated = [name for name in tests if (root / name / _ANNOTATIONS).is_file()]
    if annotated:
        test, test_labels = _annotated(walk, annotated[0], train_name, classes)
    else:
        test, test_labels = _test_split(walk, train_name, classes, tests)
    return Layout(
        root=root,
        class_names=human_names(root, classes),
        train=train,
        train_labels=train_labels,
        test=test,
        test_labels=test_labels,
        seeded=False,
    )


def _test_split(
    walk: Walk, train_name: str, classes: Sequence[str], tests: Sequence[str]
) -> tuple[list[ImageFile], list[int]]:
    root = walk.root
    # A name may be composed in one split and decomposed in the other, where they were unpacked on different systems.
    label_of = {composed(name): label for label, name in enumerate(classes)} | {
        name: label for label, name in enumerate(classes)
    }
    for name in tests:
        labels = {folder: label_of.get(folder, label_of.get(composed(folder), -1)) for folder in walk.folders(name)}
        if all(label < 0 for label in labels.values()):
            continue
        extra = sorted(folder for folder, label in labels.items() if label < 0)
        if extra:
            near = [group for group in look_alikes([extra[0], *classes]) if extra[0] in group]
            hint = f" (it has {spelt(near[0][1:])}, which differs in case only: rename one)" if near else ""
            raise SourceError(
                f"{root / name} has {some_names(extra)}, which {root / train_name} lacks{hint}; "
                "every class needs training images"
            )
        absent = [folder for label, folder in enumerate(classes) if label not in labels.values()]
        if absent:
            _logger.warning("%s has no folder for %s: tests leave these classes out", root / name, some_names(absent))
        return _labelled(walk, name, dict(sorted(labels.items(), key=lambda item: item[1])))
    raise SourceError(
        f"no class of {root / train_name} ({some_names(classes)}) has a folder in "
        f"{' or '.join(f'{name}/' for name in tests)}; {_LAYOUTS}"
    )


def _annotated(walk: Walk, split: str, train_name: str, classes: Sequence[str]) -> tuple[list[ImageFile], list[int]]:
    """Tiny-ImageNet's validation images, in the order of their names within each class."""
    root, annotations = walk.root, walk.root / split / _ANNOTATIONS
    label_of = {name: label for label, name in enumerate(classes)}
    present = {file.path: file for file in walk.images(f"{split}/images")}
    found: list[tuple[int, ImageFile]] = []
    for number, line in enumerate(lines_of(annotations), start=1):
        name, _, rest = line.partition("\t")
        wnid, file = rest.partition("\t")[0], present.get(f"{split}/images/{name}")
        if wnid not in label_of:
            raise SourceError(f"{annotations}, line {number}: the class {wnid!r} has no folder in {root / train_name}")
        if file is None:
            raise SourceError(f"{annotations}, line {number}: there is no image {root / split / 'images' / name}")
        found.append((label_of[wnid], file))
    if not found:
        raise SourceError(f"{annotations} names no image; expected lines of file name, tab, class")
    found.sort()
    return [file for _, file in found], [label for label, _ in found]


def _labelled(walk: Walk, below: str, label_of: Mapping[str, int]) -> tuple[list[ImageFile], list[int]]:
    """The images of the folders ``label_of`` in ``root/below``, folder by folder, sorted by path."""
    files: list[ImageFile] = []
    labels: list[int] = []
    for name, label in label_of.items():
        relative = f"{below}/{name}" if below else name
        before = walk.left_out.total()
        members = sorted(walk.images(relative))
        if not members:
            others = walk.left_out.total() - before
            raise SourceError(
                f"the class folder {walk.root / relative} contains no images"
                + (f", but {others} other file(s)" if others else "")
                + f" (known endings: {' '.join(suffixes())}); add some or remove the folder"
            )
        files += members
        labels += [label] * len(members)
    return files, labels


def _tell_look_alikes(folder: Path, classes: Sequence[str]) -> None:
    for group in look_alikes(classes):
        if len({composed(name) for name in group}) < len(group):
            raise SourceError(
                f"{folder} has {spelt(group)}, which look the same (one name, its characters composed or not); merge them"
            )
        _logger.warning(
            "%s has %s, which differ only in case: two classes here, but one on a file system that ignores case",
            *(folder, spelt(group)),
        )


def _too_few_classes(folder: Path, classes: Sequence[str]) -> SourceError:
    if classes:
        inside = folder / classes[0]
        return SourceError(
            f"{folder} has only one class folder ({classes[0]}); at least two are needed. If the classes are in it, "
            f"pass {inside}"
        )
    if any(path.name.lower().endswith(suffixes()) for path in folder.iterdir()):
        return SourceError(
            f"{folder} has images but no class folders; put the images of each class into a folder of its own, or, "
            f"if this is the folder of one class, pass {folder.parent}"
        )
    return SourceError(f"{folder} has no images; {_LAYOUTS}")

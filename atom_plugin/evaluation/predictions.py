"""Predictions of a kept network for image files: classes and probabilities, as a table, CSV or JSON."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from atom_plugin.datasets.walking import Walk
from atom_plugin.errors import AtomError, SourceError
from atom_plugin.evaluation.trained_network import TrainedNetwork
from atom_plugin.evaluation.training import TEST_BATCH
from atom_plugin.runtime.text import printable


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """For the image ``file``: class ids and their probabilities, the most probable first; or the ``error``."""

    file: str
    classes: tuple[tuple[int, float], ...] = ()
    error: str | None = None

    def to_json(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Plain JSON values."""
        if self.error is not None:
            return {"file": self.file, "error": self.error}
        found = [
            {"class_id": label, "class": class_names[label], "probability": share} for label, share in self.classes
        ]
        return {"file": self.file, **found[0], "classes": found}


def image_files(paths: Sequence[Path]) -> list[Path]:
    """The files among ``paths``, and the image files below the folders, by name.

    Raises SourceError for a missing path, and for a folder without images.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise SourceError(f"{path}: there is no such file or folder; name images, or folders with images")
        if not path.is_dir():
            files.append(path)
            continue
        folder = Path(os.path.realpath(path))
        walk = Walk(folder.parent)
        found = sorted(path / Path(image.path).relative_to(folder.name) for image in walk.images(folder.name))
        walk.say_left_out()
        if not found:
            raise SourceError(f"{path}: contains no image files; name images, or folders with images")
        files += found
    return files


def predict(
    trained: TrainedNetwork, files: Sequence[Path], *, top: int, on_images: Callable[[int], object] | None = None
) -> Iterator[Prediction]:
    """The ``top`` classes of each file, in order. A file that cannot be read, or has other channels, gets an error instead."""
    preprocess, left = trained.preprocess, iter(files)
    while batch := list(islice(left, TEST_BATCH)):
        images: dict[Path, torch.Tensor] = {}
        errors: dict[Path, str] = {}
        for file in batch:
            try:
                images[file] = preprocess(file)
            except AtomError as error:
                errors[file] = str(error).removeprefix(f"{file}: ")
        ranked: dict[Path, tuple[tuple[int, float], ...]] = {}
        if images:
            shares, labels = trained.probabilities(torch.stack(list(images.values()))).sort(1, descending=True)
            pairs = zip(labels[:, :top].tolist(), shares[:, :top].tolist(), strict=True)
            ranked = {file: tuple(zip(*each, strict=True)) for file, each in zip(images, pairs, strict=True)}
        for file in batch:
            yield Prediction(file=str(file), classes=ranked.get(file, ()), error=errors.get(file))
        if on_images is not None:
            on_images(len(batch))


def prediction_table(predictions: Sequence[Prediction], class_names: Sequence[str]) -> str:
    """A row per image that was read: the most probable classes, each with its probability."""
    from prettytable import PrettyTable

    read = [each for each in predictions if each.error is None]
    if not read:
        return ""
    drawn = PrettyTable(["image", *_heads(max(len(each.classes) for each in read))])
    drawn.align = "l"
    for each in read:
        cells = [text for label, share in each.classes for text in (class_names[label], f"{share:.4f}")]
        drawn.add_row([printable(cell) for cell in (each.file, *cells)])
    return drawn.get_string()


def _heads(count: int) -> list[str]:
    first = ["class", "probability"]
    return first + [f"{name} {place}" for place in range(2, count + 1) for name in first]


def as_csv(predictions: Sequence[Prediction], class_names: Sequence[str]) -> str:
    """A line per image and class under a header, the most probable first; a line with the error for a file without classes."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "rank", "class_id", "class", "probability", "error"])
    for each in predictions:
        for rank, (label, share) in enumerate(each.classes, 1):
            writer.writerow([each.file, rank, label, class_names[label], share, ""])
        if each.error is not None:
            writer.writerow([each.file, "", "", "", "", each.error])
    return text.getvalue()

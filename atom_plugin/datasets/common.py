"""Parts that several sources need: default folders, the content digest, and a split that is the same on every machine."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atom_plugin.errors import SourceError

if TYPE_CHECKING:
    from atom_plugin.datasets import SourceRequest, Split

_DIGESTED = 1024  # images at a time


def cache_home() -> Path:
    """The user's cache folder for this package: below XDG_CACHE_HOME if that is an absolute path, else ~/.cache."""
    stated = os.environ.get("XDG_CACHE_HOME", "")
    if Path(stated).is_absolute():
        return Path(stated) / "atom_plugin"
    try:
        return Path.home() / ".cache" / "atom_plugin"
    except RuntimeError:  # an account without a home, as in some containers
        return Path(tempfile.gettempdir()) / "atom_plugin"


def downloads_dir() -> Path:
    """The folder for downloads if no ``data_dir`` is given."""
    return cache_home() / "data"


def stored_options(request: SourceRequest, **more: Any) -> dict[str, Any]:
    """``image_size`` and ``more`` as JSON, without values that were not given."""
    return {key: value for key, value in {"image_size": request.image_size, **more}.items() if value is not None}


def content_digest(train: Split, test: Split, class_names: Sequence[str]) -> str:
    """sha256 hex digest over class names, shapes, uint8 pixels and labels of both splits."""
    header = [list(class_names), list(train.images.shape), list(test.images.shape)]
    digest = hashlib.sha256(json.dumps(header).encode())
    for split in (train, test):
        for part in split.parts(_DIGESTED):
            digest.update(part.contiguous().numpy().data)
        digest.update(split.labels.numpy().astype("<i8").data)
    return digest.hexdigest()


def stratified_holdout(
    keys: Sequence[str], labels: Sequence[int], *, fraction: float, seed: int, class_names: Sequence[str]
) -> list[bool]:
    """Which samples go to the test split: True for about ``fraction`` of each class, at least one and never all.

    Each class is ordered by the sha256 of ``seed/key`` and its first samples are held out. The split depends only on seed and
    keys: not on a random generator, the reading order, or another class. Raises SourceError for a class with a single sample.
    """
    members: dict[int, list[tuple[bytes, int]]] = defaultdict(list)
    for index, (key, label) in enumerate(zip(keys, labels, strict=True)):
        draw = hashlib.sha256(f"{seed}/{key}".encode("utf-8", "surrogateescape")).digest()
        members[label].append((draw, index))
    held_out = [False] * len(keys)
    for label, drawn in members.items():
        if len(drawn) < 2:
            raise SourceError(
                f"class {class_names[label]!r} has one image, but a split into training and test images needs two; "
                "add images or remove the class"
            )
        count = min(max(int(len(drawn) * fraction + 0.5), 1), len(drawn) - 1)
        for _, index in sorted(drawn)[:count]:
            held_out[index] = True
    return held_out

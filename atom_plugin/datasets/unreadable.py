"""Why an image file cannot be read, and what to do about it; and the messages of libtiff."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from atom_plugin.errors import SourceError

_CONVERT = "convert it to PNG, grey or RGB, of 8 or 16 bits"
# Tags of TIFF: samples per pixel, bits per sample, what the samples mean, whether they are integers, compression.
_SAMPLES, _BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _COMPRESSION = 277, 258, 262, 339, 259
_SAMPLE_KINDS = {1: "unsigned", 2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}


_NAMED = 5


class UnreadableImages(SourceError):
    """Image files that cannot be read; ``reasons`` has all of them, with why. The message names the first few."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        self.reasons = reasons
        super().__init__(
            f"{len(reasons)} image file(s) cannot be read: {self.named}. Repair or remove them, or leave them out with "
            "--skip-unreadable (skip_unreadable=)"
        )

    @property
    def named(self) -> str:
        """The first few files, each with its reason."""
        more = f"; and {len(self.reasons) - _NAMED} more" if len(self.reasons) > _NAMED else ""
        return "; ".join(f"{path}: {why}" for path, why in list(self.reasons.items())[:_NAMED]) + more


def why_unreadable(path: str, error: Exception) -> str:
    """What ``error``, raised by decoding the file ``path``, means: one line."""
    if not isinstance(error, UnidentifiedImageError):
        text = " ".join(str(error).split()) or type(error).__name__
        # Pillow calls the directory of a TIFF by this name as well.
        return text.replace("Corrupt EXIF data", "damaged metadata")
    try:
        with Path(path).open("rb") as file:
            head = file.read(8)
    except OSError as problem:
        return f"cannot be read ({problem.strerror})"
    if not head:
        return "is empty"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff_kind(path)
    with contextlib.suppress(Exception), Image.open(path) as other:
        return f"is a file of kind {other.format}, which is not read; {_CONVERT}"
    return f"damaged, or not an image that the installed Pillow knows (it starts with {head!r})"


@contextlib.contextmanager
def captured_stderr(wanted: bool) -> Iterator[list[str]]:
    """The text written to file descriptor 2 within the context, also by C libraries, as lines after it has ended.

    Nothing is captured unless ``wanted``, or if the process has no such descriptor.
    """
    lines: list[str] = []
    try:
        kept = os.dup(2) if wanted else None
    except OSError:
        kept = None
    if kept is None:
        yield lines
        return
    with tempfile.TemporaryFile() as file:
        with contextlib.suppress(AttributeError, OSError, ValueError):  # no stderr, or a closed one
            sys.stderr.flush()
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines += [line for line in file.read(2**16).decode(errors="replace").splitlines() if line.strip()]


def _tiff_kind(path: str) -> str:
    """The contents of a TIFF that Pillow does not read, from its first directory."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(8)
            big = head[2:3] == b"+" or head[3:4] == b"+"
            tags = TiffImagePlugin.ImageFileDirectory_v2(head + (file.read(8) if big else b""))
            file.seek(tags.next)
            tags.load(file)
            kind = _SAMPLE_KINDS.get(_first(tags, _SAMPLE_FORMAT, 1), "unknown")
            samples, bits = _first(tags, _SAMPLES, 1), tags.get(_BITS, (1,))
    except Exception:  # any of struct's, Pillow's and the file system's
        return "is a damaged TIFF: its directory cannot be read"
    depth = "/".join(str(count) for count in dict.fromkeys(bits))
    return (
        f"is a TIFF of {samples} band(s) of {depth} bits, {kind} (photometric {_first(tags, _PHOTOMETRIC, 0)}, "
        f"compression {_first(tags, _COMPRESSION, 1)}), which Pillow does not read; {_CONVERT}"
    )


def _first(tags: Any, tag: int, default: int) -> int:
    value = tags.get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)

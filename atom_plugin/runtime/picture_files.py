"""Picture files: the file ending chooses the format, and files of this package are recognised."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atom_plugin.errors import ConfigError
from atom_plugin.runtime.files import refuse_existing, write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

ENDINGS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".svg": "svg", ".pdf": "pdf"}
_MARK = "atom-plugin"  # what a picture of ours says of itself, so that no other is taken for one
_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"<?xml", b"%PDF")
_LOOKED_AT = 1 << 13  # bytes at either end
# A time in a file would make its bytes differ from run to run.
_METADATA: dict[str, dict[str, Any]] = {
    "png": {"metadata": {"Software": _MARK}},
    "jpeg": {"pil_kwargs": {"comment": _MARK, "quality": 95}},
    "svg": {"metadata": {"Creator": _MARK, "Date": None}},
    "pdf": {"metadata": {"Creator": _MARK, "CreationDate": None}},
}


def picture_format(path: Path) -> str:
    """ "png", "jpeg", "svg" or "pdf", by the ending of ``path``, in either case. Raises ConfigError for another ending."""
    kind = ENDINGS.get(path.suffix.lower())
    if kind is None:
        found = f"ends in {path.suffix!r}" if path.suffix else "has no ending"
        raise ConfigError(f"{path}: {found}, expected {', '.join(ENDINGS)}; name the picture with one of these")
    return kind


def is_picture(path: Path) -> bool:
    """Whether this package drew the picture ``path``."""
    with path.open("rb") as file:
        head = file.read(_LOOKED_AT)
        file.seek(max(0, file.seek(0, io.SEEK_END) - _LOOKED_AT))
        tail = file.read()
    return head.startswith(_STARTS) and _MARK.encode() in head + tail


def write_figure(figure: Figure, path: Path, *, force: bool) -> None:
    """Write ``figure`` atomically. Raises ConfigError for an unknown ending, StoreError if writing fails."""
    from matplotlib import rc_context

    kind, buffer = picture_format(path), io.BytesIO()
    with rc_context({"svg.hashsalt": _MARK}):
        figure.savefig(buffer, format=kind, **_METADATA[kind])
    write_bytes(path, buffer.getbuffer(), force=force)


def write_image(image: Image.Image, path: Path, *, force: bool) -> None:
    """Write ``image`` (RGB), pixel by pixel, as in :func:`write_figure`."""
    import numpy as np
    from matplotlib.figure import Figure
    from PIL.PngImagePlugin import PngInfo

    refuse_existing(path, force=force)
    kind, buffer = picture_format(path), io.BytesIO()
    if kind == "png":
        mark = PngInfo()
        mark.add_text("Software", _MARK)
        image.save(buffer, "PNG", pnginfo=mark)
    elif kind == "jpeg":
        image.save(buffer, "JPEG", **_METADATA["jpeg"]["pil_kwargs"])
    else:
        dots = 100  # an inch
        figure = Figure(figsize=(image.width / dots, image.height / dots), dpi=dots)
        figure.figimage(np.asarray(image), resize=False)
        write_figure(figure, path, force=force)
        return
    write_bytes(path, buffer.getbuffer(), force=force)

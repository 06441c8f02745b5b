"""Pictures of a report as text: rows of images and figures, as ``data:`` addresses within the page."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from atom_plugin.store.pictures import colours

_SIDE = 48  # of an image on the page, in pixels, that small ones are enlarged to
_GAP = 1  # between images of a row, in their own pixels


@dataclass(frozen=True, kw_only=True)
class Picture:
    """``source`` is a ``data:`` address, ``width`` and ``height`` its size on the page; ``alt`` describes the picture."""

    source: str
    alt: str
    width: int
    height: int


def row_of(images: torch.Tensor, alt: str) -> Picture:
    """Images on the [0, 1] scale, float32 (n, C, H, W), n 1 or more, side by side, enlarged by a whole factor."""
    from PIL import Image

    pixels = colours(images)
    count, height, width = pixels.shape[:3]
    canvas = np.zeros((height, count * (width + _GAP) - _GAP, 4), np.uint8)  # what lies between shows the page
    for number, image in enumerate(pixels):
        left = number * (width + _GAP)
        canvas[:, left : left + width, :3] = image
        canvas[:, left : left + width, 3] = 255
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "PNG", optimize=True)
    factor = max(1, _SIDE // height)
    return Picture(
        source=_address("image/png", buffer.getvalue()),
        alt=alt,
        width=canvas.shape[1] * factor,
        height=canvas.shape[0] * factor,
    )


def drawn(draw: Callable[[Path], object], alt: str) -> Picture:
    """The PNG that ``draw`` writes to its argument."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "picture.png"
        draw(file)
        data = file.read_bytes()
    with Image.open(io.BytesIO(data)) as opened:
        width, height = opened.size
    return Picture(source=_address("image/png", data), alt=alt, width=width, height=height)


def _address(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"

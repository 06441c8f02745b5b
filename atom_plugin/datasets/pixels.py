"""One image file to uint8 pixels: what happens to each kind of file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

# Part of the key of every cache: raise it when the same file would decode to other pixels.
DECODING_VERSION = 1
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N"})
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(path: str | Path, image_size: int | None = None) -> Pixels:
    """One file as uint8 (C, H, W): C is 1 for a grey file, else 3.

    - Whether a file is grey is what its header says (its mode), not what its pixels look like.
    - The EXIF orientation is applied. Of an animation, the first frame counts.
    - Transparency (RGBA, LA, palettes) is composed on white. Palettes, CMYK and the like become RGB.
    - 16-bit grey is scaled to 8 bits, 65535 to 255. Floating-point pixels have no known range: ValueError.
    - With ``image_size``, the centre square is resized to it, bicubic and antialiased: the short side becomes
      ``image_size`` and the long side is cropped on both ends.

    Raises whatever PIL raises for a file it cannot read, and warns as PIL does of odd metadata.
    """
    with Image.open(path) as opened:
        if image_size is not None:
            # JPEG decodes to a fraction of its size at a fraction of the cost; twice the goal keeps the resize sharp.
            opened.draft(None, (2 * image_size, 2 * image_size))
        opened.load()
        turn = _UPRIGHT.get(_orientation(opened))
        image = _eight_bits(opened if turn is None else opened.transpose(turn))
    if image_size is not None:
        image = _centre_square(image, image_size)
    return _channels_first(image)


def size_of(path: str | Path) -> tuple[int, int]:
    """(width, height) as :func:`decode` would give it, from the header alone. Raises as :func:`decode` does."""
    with Image.open(path) as image:
        # PIL turns TIFF files by itself, and tells the size they will have.
        turned = _orientation(image) >= 5 and image.format != "TIFF"
        width, height = image.size
        return (height, width) if turned else (width, height)


def resize_all(images: Pixels, size: int) -> Pixels:
    """Resize (N, C, H, W) to (N, C, size, size) the way :func:`decode` does.

    PIL's integer arithmetic gives the same bytes on every machine, which a vectorised float resize would not.
    """
    resized = np.empty((*images.shape[:2], size, size), np.uint8)
    for index, image in enumerate(images):
        channels_last = image[0] if len(image) == 1 else np.ascontiguousarray(np.moveaxis(image, 0, -1))
        resized[index] = _channels_first(_centre_square(Image.fromarray(channels_last), size))
    return resized


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged metadata is no reason to refuse the pixels
        return 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image in mode L or RGB."""
    grey = image.mode in _GREY_MODES
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; convert the file to 8 or 16 bits")
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError(f"pixels from {levels.min()} to {levels.max()} do not fit into 16 bits")
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("L" if grey else "RGB")


def _centre_square(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))


def _channels_first(image: Image.Image) -> Pixels:
    pixels: Pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)

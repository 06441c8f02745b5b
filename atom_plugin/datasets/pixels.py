"""Decode one image file to uint8 pixels: the treatment of each kind of file."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

# Part of the key of every cache: raise it when the same file would decode to other pixels.
DECODING_VERSION = 1
MAX_PIXELS = 89_478_485  # Pillow's own warning threshold: a quarter GiB of RGB
# Pillow's names of the formats that hold pixels and nothing to run or to render, unlike EPS or WMF.
_FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "SUN", "TGA"),
    *("TIFF", "WEBP"),
)
# What Pillow counts among these formats and no camera or tool writes, or that mean something else as a rule.
_OTHER_ENDINGS = (".pfm", ".bw", ".rgb", ".rgba", ".icb", ".vda", ".vst", ".ras")
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N"})
_ORIENTATION_TAG = 0x0112
_BITS_PER_SAMPLE = 258
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How files are decoded. ``image_size``: side of the square, None for the file's own size.

    ``bit_depth``: 16-bit grey files have values below 2 ** bit_depth, and the largest becomes 255. ``max_pixels``: the largest
    allowed number of pixels, by the header.
    """

    image_size: int | None = None
    bit_depth: int = 16
    max_pixels: int = MAX_PIXELS


@functools.cache
def suffixes() -> tuple[str, ...]:
    """The endings of image files that the installed Pillow reads, sorted."""
    known = Image.registered_extensions() | {".mpo": "JPEG"}  # MPO: several JPEGs in one file, read by the same plugin
    return tuple(sorted(end for end, kind in known.items() if kind in _formats() and end not in _OTHER_ENDINGS))


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(kind for kind in _FORMATS if kind in Image.OPEN)


def decode(path: str | Path, how: Decoding = Decoding()) -> Pixels:
    """One file as uint8 (C, H, W): C is 1 for a grey file, else 3.

    - Whether a file is grey is what its header says (its mode), not what its pixels look like.
    - The EXIF orientation is applied. Of an animation, the first frame counts.
    - Transparency (RGBA, LA, palettes) is composed on white. Palettes, CMYK and the like become RGB.
    - 16-bit grey is scaled to 8 bits, 65535 to 255, or what ``how.bit_depth`` or a TIFF's own depth says. Floating-point
      pixels have no known range: ValueError.
    - With ``how.image_size``, the centre square is resized to it, bicubic and antialiased: the short side becomes
      ``image_size`` and the long side is cropped on both ends.

    Raises ValueError for an image of more than ``how.max_pixels`` before memory is taken for it, and whatever PIL raises for a
    file it cannot read; warns as PIL does of odd metadata.
    """
    with _opened(path, how.max_pixels) as opened:
        if how.image_size is not None:
            # JPEG decodes to a fraction of its size at a fraction of the cost; twice the goal keeps the resize sharp.
            opened.draft(None, (2 * how.image_size, 2 * how.image_size))
        return pixels_of(opened, how)


def pixels_of(opened: Image.Image, how: Decoding = Decoding()) -> Pixels:
    """An image object of Pillow, decoded as :func:`decode` does a file. Raises ValueError likewise."""
    depth = _depth(opened, how.bit_depth)
    opened.load()
    turn = _UPRIGHT.get(_orientation(opened))
    image = _eight_bits(opened if turn is None else opened.transpose(turn), depth)
    if how.image_size is not None:
        image = _centre_cut(image, how.image_size, how.image_size)
    return _channels_first(image)


def sixteen_bit_maximum(path: str | Path, how: Decoding) -> tuple[int, bool] | None:
    """The largest value of a 16-bit file, and whether it is grey; None if it has 8 bits, or if its header gives its depth.

    Pillow reads only the high byte of 16-bit colour. Raises as :func:`decode` does.
    """
    with _opened(path, how.max_pixels) as opened:
        if opened.mode.startswith("I"):
            return None if _depth(opened, 16) != 16 else (int(np.asarray(opened).max()), True)
        return (int(np.asarray(opened).max()) * 257, False) if _is_wide_colour(opened) else None


def size_of(path: str | Path) -> tuple[int, int]:
    """(width, height) that :func:`decode` would give, from the header alone. Raises as :func:`decode` does."""
    with _opened(path, None) as image:
        # PIL turns TIFF files by itself, and tells the size they will have.
        turned = _orientation(image) >= 5 and image.format != "TIFF"
        width, height = image.size
        return (height, width) if turned else (width, height)


def resize_all(images: Pixels, size: int, width: int | None = None) -> Pixels:
    """Resize (N, C, H, W), C 1 or 3, to (N, C, size, size) as :func:`decode` does; with another ``width``, to that shape.

    PIL's integer arithmetic gives the same bytes on every machine, unlike a vectorised float resize.
    """
    width = size if width is None else width
    resized = np.empty((*images.shape[:2], size, width), np.uint8)
    for index, image in enumerate(images):
        channels_last = image[0] if len(image) == 1 else np.ascontiguousarray(np.moveaxis(image, 0, -1))
        resized[index] = _channels_first(_centre_cut(Image.fromarray(channels_last), size, width))
    return resized


@contextlib.contextmanager
def _opened(path: str | Path, max_pixels: int | None) -> Iterator[Image.Image]:
    """The file with its header read. Raises ValueError if the header declares more than ``max_pixels``; None for no limit."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # this limit in place of Pillow's
    try:
        with Image.open(path, formats=_formats()) as image:
            if max_pixels is not None and image.width * image.height > max_pixels:
                raise ValueError(
                    f"its header declares {image.width}x{image.height} pixels, more than the {max_pixels:,} of --max-pixels "
                    "(max_pixels=)"
                )
            yield image
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _depth(image: Image.Image, bit_depth: int) -> int:
    """Bits that the values of a 16-bit file use: a TIFF's own number if it is less than 16, else ``bit_depth``."""
    if bit_depth != 16 and _is_wide_colour(image):
        raise ValueError(
            "is 16-bit colour, of which only the high bytes are read, so a bit depth has no effect; convert it to 8 "
            "bits"
        )
    told = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))
    return int(told[0]) if image.mode.startswith("I;16") and 8 < told[0] < 16 else bit_depth


def _is_wide_colour(image: Image.Image) -> bool:
    """Whether 16 bits per channel were cut to 8 for mode RGB, RGBA, CMYK and similar; call it before pixels are loaded."""
    return not image.mode.startswith("I") and any(";16" in str(tile) for tile in getattr(image, "tile", []))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged metadata is no reason to refuse the pixels
        return 1


def _eight_bits(image: Image.Image, depth: int) -> Image.Image:
    """The image in mode L or RGB; ``depth`` is the number of bits of 16-bit values."""
    grey = image.mode in _GREY_MODES
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; convert the file to 8 or 16 bits")
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        top = 2**depth - 1
        if levels.min() < 0 or levels.max() > top:
            raise ValueError(f"pixels from {levels.min()} to {levels.max()} do not fit into {depth} bits")
        return Image.fromarray(((levels * 255 + top // 2) // top).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("L" if grey else "RGB")


def _centre_cut(image: Image.Image, height: int, width: int) -> Image.Image:
    """The largest central part with the aspect ratio of ``height`` x ``width``, resized to it."""
    if image.size == (width, height):
        return image
    if image.width * height <= image.height * width:
        across, down = float(image.width), image.width * height / width
    else:
        across, down = image.height * width / height, float(image.height)
    left, top = (image.width - across) / 2, (image.height - down) / 2
    box = (left, top, left + across, top + down)
    return image.resize((width, height), Image.Resampling.BICUBIC, box=box)


def _channels_first(image: Image.Image) -> Pixels:
    pixels: Pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)

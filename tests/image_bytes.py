"""Image files that Pillow cannot write, byte by byte."""

from __future__ import annotations

import struct


def tiff(tags: dict[int, int], pixels: bytes) -> bytes:
    """A little-endian TIFF of one strip ``pixels`` with ``tags`` (numbers of 32 bits), and where the strip is."""
    entries = sorted((tags | {273: 8, 279: len(pixels)}).items())
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries
    )
    padded = pixels + b"\0" * (len(pixels) % 2)
    return struct.pack("<2sHI", b"II", 42, 8 + len(padded)) + padded + directory + struct.pack("<I", 0)

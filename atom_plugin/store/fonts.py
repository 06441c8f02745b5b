"""Fonts for names in pictures: DejaVu Sans where it has the characters, else an installed font that has them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable
from pathlib import Path


@functools.cache
def font_with(text: str) -> Path | None:
    """The font file to draw ``text`` with: DejaVu Sans, which matplotlib includes, or the first installed font, by its path,
    that has every character; None if there is none.
    """
    wanted = frozenset(ord(character) for character in text if not character.isspace())
    return next((path for path in (_dejavu(), *_installed()) if wanted <= _characters(path)), None)


def shortened(name: str, longest: int) -> str:
    """``name`` without unprintable characters, cut to ``longest``."""
    text = "".join(character if character.isprintable() else "?" for character in name)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def without_font(names: Iterable[str]) -> str | None:
    """A message on those ``names`` whose characters no font here has; None if there are none."""
    undrawn = [name for name in names if font_with(shortened(name, len(name))) is None]
    if not undrawn:
        return None
    return (
        f"no installed font has the characters of {len(undrawn)} name(s), such as {undrawn[0]!r}: ids are drawn instead; "
        "install a font that has them, such as Noto Sans CJK"
    )


def _dejavu() -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@functools.cache
def _installed() -> tuple[Path, ...]:
    from matplotlib.font_manager import findSystemFonts, fontManager

    # The list that matplotlib keeps may be older than a font that was just installed for this.
    found = {*(item.fname for item in fontManager.ttflist), *findSystemFonts()}
    # "Last resort" fonts have a box for every character there is.
    return tuple(Path(name) for name in sorted(found) if "LastResort" not in name)


@functools.cache
def _characters(path: Path) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    with contextlib.suppress(OSError, RuntimeError, ValueError):  # bitmap fonts and damaged ones
        return frozenset(FT2Font(str(path)).get_charmap())
    return frozenset()

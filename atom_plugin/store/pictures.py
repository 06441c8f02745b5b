"""Pictures of a set and of a run: a labelled grid in true colours, and the loss curve."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from atom_plugin.errors import ConfigError
from atom_plugin.runtime.files import refuse_existing
from atom_plugin.runtime.picture_files import picture_format, write_figure, write_image
from atom_plugin.store.fonts import font_with, shortened, without_font
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import to_uint8

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL import Image, ImageFont

Pixels = np.ndarray[Any, Any]

_logger = logging.getLogger("atom_plugin")
_TILE = 64  # the side, in pixels, that small images are enlarged to, where there are not too many
_GAP = 2
_MARGIN = 12
_TALLEST = 4000
_ROWS = 100
_POINTS = 10.0  # of accuracy, which its axis covers at least
_INK, _FAINT, _PAPER = (25, 25, 25), (120, 120, 120), (255, 255, 255)


def grid(
    images: SyntheticSet | torch.Tensor,
    labels: torch.Tensor,
    class_names: Sequence[str],
    path: str | Path,
    *,
    per_class: int = 10,
    title: str | None = None,
    force: bool = True,
) -> None:
    """Write a row of images per class, its name at the left, to a picture file, atomically.

    Classes come in the order of the set, or by id if it mixes them. ``images``: a set, whose true colours are drawn, or true
    colours (N, C, H, W) on the [0, 1] scale; values outside are clamped, channels other than 1 or 3 averaged. ``labels``: (N,)
    class ids, indices into ``class_names``. Classes without images have no row; if there are too many classes, or more than
    ``per_class`` images, the picture gives the number of the others. Raises ConfigError if there is nothing to draw, StoreError
    if writing fails.
    """
    target = Path(path)
    picture_format(target)
    refuse_existing(target, force=force)
    if per_class < 1:
        raise ConfigError(f"found {per_class} images per class to draw, expected at least 1")
    if not len(labels):
        raise ConfigError("found no images to draw, expected at least one; is the set empty?")
    held: dict[int, list[int]] = {label: [] for label in _class_order(labels.tolist())}
    for position, label in enumerate(labels.tolist()):
        held[label].append(position)
    # Only what is drawn is converted: to undo ZCA takes a D x D product per image.
    layout = _layout(len(held), *(images.images if isinstance(images, SyntheticSet) else images).shape[2:])
    shown = {label: positions[:per_class] for label, positions in list(held.items())[: layout.rows]}
    positions = [position for positions in shown.values() for position in positions]
    tiles = iter(colours(images.as_stored(positions) if isinstance(images, SyntheticSet) else images[positions]))
    rows = [(label, class_names[label], [next(tiles) for _ in positions]) for label, positions in shown.items()]
    if told := without_font([name for _, name, _ in rows]):
        _logger.warning("%s: %s", target, told)
    write_image(_grid_image(rows, layout, _notes(held, layout.rows, per_class), title or ""), target, force=force)


def _class_order(labels: Sequence[int]) -> list[int]:
    """Class ids in the order of the set if the images of each are together; else sorted."""
    runs = [label for label, _ in itertools.groupby(labels)]
    return runs if len(set(runs)) == len(runs) else sorted(set(runs))


def loss_curve(records: Sequence[Mapping[str, Any]], path: str | Path, *, force: bool = True) -> None:
    """Draw "loss" over "iteration" of ``records`` on a logarithmic axis, with its running median, to a picture file.

    If records have an "accuracy", in [0, 1], it is drawn on a second axis, in percent. Records without a positive, finite loss
    are left out. Raises ConfigError if none is left, StoreError if writing fails.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter, MaxNLocator

    target = Path(path)
    picture_format(target)
    refuse_existing(target, force=force)
    points = [(int(record["iteration"]), float(record["loss"])) for record in records if "loss" in record]
    points = [(iteration, loss) for iteration, loss in points if math.isfinite(loss) and loss > 0]
    if not points:
        raise ConfigError(f"found no positive, finite loss in {len(records)} records, expected at least one to draw")
    iterations, losses = np.array(points).T
    # A Figure of its own, without pyplot: neither the global backend nor the list of open figures is touched.
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    lonely = "o" if len(points) == 1 else ""
    axes.semilogy(iterations, losses, linewidth=0.6, alpha=0.5, color="tab:blue", label="loss", marker=lonely)
    window = max(3, len(points) // 20) | 1
    if len(points) >= window:
        positions, medians = running_median(losses, window)
        axes.semilogy(iterations[positions], medians, linewidth=1.8, color="tab:orange", label=f"median of {window}")
    # Plain numbers instead of powers of ten; between those, only where they leave room.
    axes.yaxis.set_major_formatter(LogFormatter())
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("iteration")
    axes.set_ylabel("loss")
    axes.grid(which="both", linewidth=0.3, alpha=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    _add_accuracy(axes, records)
    axes.legend(frameon=False)
    write_figure(figure, target, force=force)


def _add_accuracy(axes: Axes, records: Sequence[Mapping[str, Any]]) -> None:
    """Draw the accuracy over the loss, if there is one."""
    reached = [(int(each["iteration"]), 100 * float(each["accuracy"])) for each in records if "accuracy" in each]
    if not reached:
        return
    other = axes.twinx()
    other.plot(*zip(*reached, strict=True), color="black", marker="o", markersize=3, linewidth=1.2)
    low, high = (function(value for _, value in reached) for function in (min, max))
    spare = max(1.0, (_POINTS - (high - low)) / 2)  # one image more or less is no course
    other.set_ylim(max(0.0, low - spare), min(100.0, high + spare))
    other.set_ylabel("validation accuracy, %")
    other.spines["top"].set_visible(False)
    axes.plot([], [], color="black", marker="o", markersize=3, linewidth=1.2, label="accuracy")


def running_median(
    values: np.ndarray[Any, Any], window: int, points: int = 500
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Up to ``points`` evenly spread positions, and the median of the ``window`` (odd) values around each.

    Only where a whole window fits, because a median of fewer values would be noisy at the ends. There must be at least
    ``window`` values.
    """
    half, inside = window // 2, len(values) - window + 1
    positions = half + np.unique(np.linspace(0, inside - 1, min(points, inside)).round().astype(int))
    return positions, np.array([np.median(values[at - half : at + half + 1]) for at in positions])


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Sizes in pixels: ``factor`` enlarges an image, ``width`` and ``height`` are the enlarged sizes."""

    factor: int
    width: int
    height: int
    row: int
    rows: int
    text: int


def _layout(classes: int, height: int, width: int) -> _Layout:
    """As large as ``_TILE`` allows, smaller where the classes would make the picture taller than ``_TALLEST``."""
    shown = min(classes, _ROWS)
    side = min(_TILE, _TALLEST // shown - _GAP)
    factor = max(1, side // max(height, width))
    text = 16 if factor * height >= 32 else 12
    row = max(factor * height, text + 2) + _GAP
    # Large images are not made smaller; then fewer classes are shown.
    rows = min(shown, max(10, _TALLEST // row))
    return _Layout(factor=factor, width=factor * width, height=factor * height, row=row, rows=rows, text=text)


def _grid_image(
    rows: Sequence[tuple[int, str, list[Pixels]]], layout: _Layout, notes: list[str], title: str
) -> Image.Image:
    """The picture of ``rows``: class id, class name, and its images, uint8 (H, W, 3)."""
    from PIL import Image, ImageDraw

    heading, small = shortened(title, 100), _font(12)
    large = _font(16, font_with(heading))
    names = [legible(name, instead=f"class {label}") for label, name, _ in rows]
    fonts = [_font(layout.text, font_with(name)) for name in names]
    left = _MARGIN + math.ceil(max(font.getlength(name) for font, name in zip(fonts, names, strict=True))) + _MARGIN
    columns = max(len(tiles) for _, _, tiles in rows)
    longest = max([large.getlength(heading), *(small.getlength(note) for note in notes)])
    width = max(left + columns * (layout.width + _GAP) + _MARGIN, 2 * _MARGIN + math.ceil(longest))
    top = _MARGIN + (26 if heading else 0)
    bottom = top + len(rows) * layout.row
    canvas = Image.new("RGB", (width, bottom + 18 * len(notes) + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, _MARGIN), heading, fill=_INK, font=large)
    for number, (name, font, (_, _, tiles)) in enumerate(zip(names, fonts, rows, strict=True)):
        middle = top + number * layout.row + (layout.row - _GAP) // 2
        draw.text((left - _MARGIN, middle), name, fill=_INK, font=font, anchor="rm")
        for column, tile in enumerate(tiles):
            enlarged = Image.fromarray(tile).resize((layout.width, layout.height), Image.Resampling.NEAREST)
            canvas.paste(enlarged, (left + column * (layout.width + _GAP), middle - layout.height // 2))
    for number, note in enumerate(notes):
        draw.text((_MARGIN, bottom + 4 + 18 * number), note, fill=_FAINT, font=small)
    return canvas


def _notes(held: Mapping[int, list[int]], rows: int, per_class: int) -> list[str]:
    notes = []
    if len(held) > rows:
        notes.append(f"+{len(held) - rows} more classes")
    most = max(len(positions) for positions in held.values())
    if most > per_class:
        notes.append(f"the first {per_class} of up to {most} images per class")
    return notes


def colours(images: torch.Tensor) -> Pixels:
    """Images (N, C, H, W) on the [0, 1] scale as uint8 RGB, (N, H, W, 3); channels other than 1 or 3 are averaged."""
    rgb = to_uint8(images.detach().cpu())
    if rgb.shape[1] != 3:
        rgb = to_uint8(images.detach().cpu().clamp(0, 1).mean(1, keepdim=True)).expand(-1, 3, -1, -1)
    return np.asarray(rgb.permute(0, 2, 3, 1).contiguous().numpy())


def _font(size: int, path: Path | None = None) -> ImageFont.FreeTypeFont:
    """A font by its file; DejaVu Sans by default."""
    from PIL import ImageFont

    return ImageFont.truetype(str(path or font_with("")), size)


def legible(text: str, *, longest: int = 28, instead: str = "") -> str:
    """``text`` in a form that a picture can show: printable and short; or ``instead`` if no font here has its characters."""
    short = shortened(text, longest)
    return short if font_with(short) is not None else instead

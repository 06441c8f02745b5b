"""Draw results of streams side by side: accuracy against the number of classes seen."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atom_plugin.replay.summaries import ClassesPerStep, Summary, classes_seen, comparable
from atom_plugin.runtime.files import refuse_existing
from atom_plugin.runtime.picture_files import picture_format, write_figure
from atom_plugin.runtime.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which people with any colour vision can tell apart, less their yellow, too pale for a line.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
_MARKERS = "osD^vP<X>h*p"
_STYLES: Sequence[Any] = ("-", (0, (4, 1.5)))  # of the modes; matplotlib's own dashes are too short beside markers
_NARROWEST = 1 / 15  # of the axis: steps closer together than this get no tick each
_LEGEND: Mapping[str, Any] = {
    "loc": "outside right center",
    "alignment": "left",
    "frameon": False,
    "fontsize": 9,
    "title_fontsize": 8,
    "handlelength": 3.2,
}


def draw_curves(
    summaries: Sequence[Summary],
    path: str | Path,
    *,
    classes_per_step: ClassesPerStep,
    title: str = "",
    force: bool = False,
) -> None:
    """Draw accuracy against classes seen to a picture file: a line per summary, and mean ± standard deviation as a region.

    A policy keeps colour and marker in both modes. Raises ConfigError if summaries do not fit together, or there is none,
    StoreError if writing fails.
    """
    from matplotlib.figure import Figure

    target = Path(path)
    picture_format(target)
    refuse_existing(target, force=force)
    seen = classes_seen(classes_per_step, comparable(summaries))
    # A Figure of its own, without pyplot: neither the global backend nor the list of open figures is touched.
    figure = Figure(figsize=(8, max(4.5, 0.5 + 0.2 * len(summaries))), dpi=120, layout="constrained")
    axes = figure.subplots()
    lines = _draw_lines(axes, summaries, seen)
    axes.set_xlabel("classes seen")
    axes.set_ylabel("accuracy on the classes seen, %")
    axes.set_title(printable(title), fontsize=11, loc="left", parse_math=False, wrap=True)
    axes.grid(linewidth=0.3, alpha=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    # In the order of the lines' ends, so that the eye finds a line's name at its height.
    ranked = sorted(zip(summaries, lines, strict=True), key=lambda pair: -pair[0].curve[-1].mean)
    one_mode = len({summary.mode for summary in summaries}) == 1
    figure.legend(
        [line for _, line in ranked],
        [printable(summary.policy if one_mode else f"{summary.policy}, {summary.mode}") for summary, _ in ranked],
        title="mean ± standard deviation\nover class orders" if any(s.orders > 1 for s in summaries) else None,
        **_LEGEND,
    )
    write_figure(figure, target, force=force)


def _draw_lines(axes: Axes, summaries: Sequence[Summary], seen: Sequence[int]) -> list[Any]:
    from matplotlib.ticker import MaxNLocator

    policies = list(dict.fromkeys(summary.policy for summary in summaries))
    modes = list(dict.fromkeys(summary.mode for summary in summaries))
    lines = []
    for summary in summaries:
        number = policies.index(summary.policy)
        colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
        if summary.orders > 1:
            low, high = ([100 * (v.mean + sign * (v.std or 0)) for v in summary.curve] for sign in (-1, 1))
            axes.fill_between(seen, low, high, color=colour, alpha=0.15, linewidth=0)
        means = [100 * value.mean for value in summary.curve]
        lines += axes.plot(
            seen,
            means,
            color=colour,
            linestyle=_STYLES[modes.index(summary.mode)],
            marker=marker,
            markersize=5,
            markerfacecolor=colour if number < len(_COLOURS) else "white",
        )
    if all(after - before >= _NARROWEST * (seen[-1] - seen[0]) for before, after in itertools.pairwise(seen)):
        axes.set_xticks(seen)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return lines

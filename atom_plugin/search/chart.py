"""Draw a search: the accuracies of candidates on each proxy, against the reference."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atom_plugin.errors import ConfigError
from atom_plugin.runtime.files import refuse_existing
from atom_plugin.runtime.picture_files import picture_format, write_figure
from atom_plugin.search.result import ProxyResult, SearchResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which people with any colour vision can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
_MARKERS = "osD^vP<X"
_COLUMNS = 3
_SIDE = 3.4  # inches
_COLOURED_BY = "normalisation"
_LEGEND: Mapping[str, Any] = {"loc": "outside right center", "frameon": False, "fontsize": 9, "title_fontsize": 9}


def draw_scatter(result: SearchResult, path: str | Path, *, force: bool = False) -> None:
    """Draw a panel per proxy to a picture file: a point per candidate, its accuracy on the proxy and on the reference.

    ConvNets are coloured by their normalisation if the space has several. Candidates that failed on either side, or that
    halving stopped, are left out. Raises ConfigError without a reference or without any point, StoreError if writing fails.
    """
    from matplotlib.figure import Figure

    target = Path(path)
    picture_format(target)
    refuse_existing(target, force=force)
    summaries = result.summaries
    points = {each.name: _points(result, each.name) for each in summaries}
    if not any(points.values()):
        raise ConfigError("found no candidate with an accuracy on a proxy and on the reference; ask for a reference")
    columns = 2 if len(summaries) == 4 else min(_COLUMNS, len(summaries))
    rows = -(-len(summaries) // columns)
    figure = Figure(figsize=(_SIDE * columns + 1.2, _SIDE * rows + 0.6), dpi=120, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, each in zip(panels, summaries, strict=False):
        _draw(panel, points[each.name], each)
    for panel in panels[len(summaries) :]:
        panel.set_visible(False)
    figure.supylabel("reference accuracy, %", fontsize=10)
    handles = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    if len(handles) > 1:
        figure.legend(list(handles.values()), list(handles), title=_COLOURED_BY, **_LEGEND)
    write_figure(figure, target, force=force)


def _points(result: SearchResult, proxy: str) -> dict[str, list[tuple[float, float]]]:
    """Accuracies on the proxy and on the reference, in %, by colour group."""
    if result.reference is None:
        return {}
    ours, true = result.scores.get(proxy, {}), result.scores.get(result.reference.name, {})
    last = max((score.rung for score in ours.values()), default=0)
    found: dict[str, list[tuple[float, float]]] = {}
    for candidate in result.candidates:
        one, other = ours.get(candidate.name), true.get(candidate.name)
        if one is None or other is None or one.accuracy is None or other.accuracy is None or one.rung < last:
            continue
        kind = str(candidate.fields.get(_COLOURED_BY, "candidates"))
        found.setdefault(kind, []).append((100 * one.accuracy, 100 * other.accuracy))
    return found


def _draw(axes: Axes, points: dict[str, list[tuple[float, float]]], summary: ProxyResult) -> None:
    for number, (kind, pairs) in enumerate(sorted(points.items())):
        style: dict[str, Any] = {"color": _COLOURS[number % len(_COLOURS)], "marker": _MARKERS[number % len(_MARKERS)]}
        ours, true = zip(*pairs, strict=True)
        axes.scatter(ours, true, s=22, alpha=0.8, linewidths=0, label=kind, **style)
    lines = textwrap.wrap(Path(summary.name).name, 34)
    if summary.all is not None and (rho := summary.all.spearman).value is not None:
        lines.append(f"Spearman {rho.value:.2f} [{rho.low:.2f}, {rho.high:.2f}], n = {summary.all.n}")
    axes.set_title("\n".join(lines), fontsize=9, loc="left", parse_math=False)
    axes.set_xlabel("proxy accuracy, %", fontsize=9)
    axes.grid(linewidth=0.3, alpha=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)

"""Results side by side, drawn: a bar per result with its standard deviation."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from atom_plugin.atomic import refuse_existing, write_bytes
from atom_plugin.errors import ConfigError
from atom_plugin.evaluation.results import Evaluation

_COLOURS = "tableau-colorblind10"  # a style of matplotlib's


def draw_chart(evaluations: Sequence[Evaluation], path: str | Path, *, title: str = "", force: bool = False) -> None:
    """Draw accuracies to a PNG file: a group of bars per set, one bar per model, mean ± standard deviation over networks.

    A pooled result stands in for its sets; what failed is left out. Raises ConfigError where nothing is left, StoreError
    where writing fails.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    target = Path(path)
    refuse_existing(target, force=force)
    shown = _shown(evaluations)
    if not shown:
        raise ConfigError("found no accuracy to draw, expected at least one; see why the networks failed")
    groups = list(dict.fromkeys(evaluation.names for evaluation in shown))
    models = list(dict.fromkeys(evaluation.model for evaluation in shown))
    colours = [entry["color"] for entry in style.library[_COLOURS]["axes.prop_cycle"]]
    # A Figure of its own, without pyplot: neither the global backend nor the list of open figures is touched.
    figure = Figure(figsize=(8, 1.5 + 0.28 * len(groups) * (len(models) + 0.6)), dpi=120, layout="constrained")
    axes = figure.subplots()
    for evaluation in shown:
        assert evaluation.mean is not None and evaluation.std is not None
        number = models.index(evaluation.model)
        place = groups.index(evaluation.names) * (len(models) + 0.6) + number
        mean, std = 100 * evaluation.mean, 100 * evaluation.std
        error = std if len(evaluation.accuracies) > 1 else None
        axes.barh(place, mean, height=0.85, color=colours[number % len(colours)], xerr=error, capsize=2.5)
        axes.text(mean + (error or 0) + 0.8, place, f"{mean:.1f}", va="center", fontsize=8)
    middles = [number * (len(models) + 0.6) + (len(models) - 1) / 2 for number in range(len(groups))]
    labels = {evaluation.names: evaluation.label for evaluation in shown}
    axes.set_yticks(middles, [labels[names] for names in groups], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, None)
    axes.margins(x=0.08)
    several = any(len(evaluation.accuracies) > 1 for evaluation in shown)
    axes.set_xlabel("test accuracy, %" + (" (mean ± standard deviation over networks)" if several else ""))
    axes.set_title(title, fontsize=9, loc="left", parse_math=False, wrap=True)
    axes.grid(axis="x", linewidth=0.3, alpha=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if len(models) > 1:
        handles = [axes.barh(0, 0, color=colours[number % len(colours)]) for number in range(len(models))]
        figure.legend(handles, models, loc="outside right center", frameon=False, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(target, buffer.getbuffer(), force=force)


def _shown(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    parts = {(name, each.model) for each in evaluations if len(each.names) > 1 for name in each.names}
    return [
        each
        for each in evaluations
        if each.mean is not None and (len(each.names) > 1 or (each.names[0], each.model) not in parts)
    ]

"""Draw results side by side: a bar per result with its standard deviation."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from atom_plugin.errors import ConfigError
from atom_plugin.evaluation.results import Evaluation
from atom_plugin.evaluation.tables import differing_settings, shared_settings
from atom_plugin.evaluation.training_recipes import TrainConfig
from atom_plugin.runtime.files import refuse_existing
from atom_plugin.runtime.picture_files import picture_format, write_figure
from atom_plugin.runtime.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = "tableau-colorblind10"  # a style of matplotlib's
_GAP = 0.6  # between groups, in bars
_LONGEST = 32  # characters of a label's line
_Place: TypeAlias = tuple[tuple[str, ...], TrainConfig]  # what stands together: names and training


def draw_chart(evaluations: Sequence[Evaluation], path: str | Path, *, force: bool = False) -> None:
    """Draw accuracies to a picture file: a group of bars per set and training, a bar per model, mean ± standard deviation.

    A pooled result replaces its sets; failed results are left out. Settings that all share are in the title, others in the
    labels of their groups. Raises ConfigError if nothing is left, StoreError if writing fails.
    """
    from matplotlib import style
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    target = Path(path)
    picture_format(target)
    refuse_existing(target, force=force)
    shown = _shown(evaluations)
    if not shown:
        raise ConfigError("found no accuracy to draw, expected at least one; see why the networks failed")
    models = list(dict.fromkeys(evaluation.architecture for evaluation in shown))
    cycle = [entry["color"] for entry in style.library[_COLOURS]["axes.prop_cycle"]]
    colours = {model: cycle[number % len(cycle)] for number, model in enumerate(models)}
    groups: dict[_Place, list[Evaluation]] = {}
    for evaluation in shown:
        groups.setdefault((evaluation.names, evaluation.training), []).append(evaluation)
    # A Figure of its own, without pyplot: neither the global backend nor the list of open figures is touched.
    figure = Figure(figsize=(8, 1.5 + 0.28 * (len(shown) + _GAP * len(groups))), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(*_draw_bars(axes, groups, colours), parse_math=False)
    axes.invert_yaxis()
    axes.margins(x=0.12, y=0.02)
    axes.set_xlim(left=0)
    several = any(len(evaluation.accuracies) > 1 for evaluation in shown)
    parts = " and ".join(dict.fromkeys(evaluation.on for evaluation in shown))
    axes.set_xlabel(f"{parts} accuracy, %" + (" (mean ± standard deviation over networks)" if several else ""))
    axes.set_title(printable(shared_settings(shown)), fontsize=9, loc="left", parse_math=False, wrap=True)
    axes.grid(axis="x", linewidth=0.3, alpha=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if len(models) > 1:
        handles = [Patch(color=colour) for colour in colours.values()]
        figure.legend(handles, map(printable, models), loc="outside right center", frameon=False, fontsize=9)
    write_figure(figure, target, force=force)


def _draw_bars(
    axes: Axes, groups: Mapping[_Place, Sequence[Evaluation]], colours: Mapping[str, str]
) -> tuple[list[float], list[str]]:
    """Bars from place 0 on, with gaps between groups; returns the middle of each group and its label."""
    middles, labels, place = [], [], 0.0
    differing = differing_settings([evaluation for group in groups.values() for evaluation in group])
    for group in groups.values():
        middles.append(place + (len(group) - 1) / 2)
        settings = [evaluation.settings() for evaluation in group]
        own = [f"{name} {', '.join(dict.fromkeys(each[name] for each in settings))}" for name in differing]
        words = map(printable, [Path(group[0].label).name, *own])
        labels.append("\n".join(line for text in words for line in textwrap.wrap(text, _LONGEST)))
        for evaluation in group:
            assert evaluation.mean is not None
            mean, error = 100 * evaluation.mean, None if evaluation.std is None else 100 * evaluation.std
            axes.barh(place, mean, height=0.85, color=colours[evaluation.architecture], xerr=error, capsize=2.5)
            axes.annotate(
                f"{mean:.1f}", (mean + (error or 0), place), (4, 0), textcoords="offset points", va="center", fontsize=8
            )
            place += 1
        place += _GAP
    return middles, labels


def _shown(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    parts = {(name, each.model, each.training) for each in evaluations if len(each.names) > 1 for name in each.names}
    return [
        each
        for each in evaluations
        if each.mean is not None and (len(each.names) > 1 or (each.names[0], each.model, each.training) not in parts)
    ]

"""The HTML page of a report, without external files and scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import Any

from atom_plugin.evaluation import Evaluation
from atom_plugin.evaluation.chart import draw_chart
from atom_plugin.evaluation.embedding_map import EmbeddingMapConfig
from atom_plugin.evaluation.tables import results_table, settings_words
from atom_plugin.report.facts import config_rows, fact_rows
from atom_plugin.report.gather import Shown, curves, galleries, maps, neighbours
from atom_plugin.report.pictures import drawn
from atom_plugin.runtime.text import printable
from atom_plugin.runtime.versions import __version__


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """``per_class`` stored images of each class are shown; ``embedding`` None leaves the maps out."""

    title: str
    per_class: int = 10
    embedding: EmbeddingMapConfig | None = None


def report_page(
    sets: Sequence[Shown], evaluations: Sequence[Evaluation], config: ReportConfig, *, absent: Mapping[str, str]
) -> str:
    """The HTML. ``absent`` has, by the name of a set, the reason why its source is missing.

    Browsers fetch or run nothing for it: pictures are embedded, and its content policy forbids the rest.
    """
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["printable"] = printable
    template = environment.from_string(
        resources.files("atom_plugin.report").joinpath("page.html.jinja").read_text("utf-8")
    )
    return template.render(
        title=config.title,
        version=__version__,
        names=[each.name for each in sets],
        facts=fact_rows([each.held for each in sets], [each.header for each in sets]),
        galleries=galleries(sets, config.per_class),
        per_class=config.per_class,
        neighbours=neighbours(sets, absent),
        curves=curves(sets),
        results=_results(evaluations),
        maps=[] if config.embedding is None else maps(sets, config.embedding, absent),
        choices=config_rows([each.held for each in sets]),
    )


def _results(evaluations: Sequence[Evaluation]) -> dict[str, Any] | None:
    """The table and the chart of recorded networks."""
    if not evaluations:
        return None
    table = results_table(evaluations)
    return {
        "words": settings_words(evaluations),
        "heads": table.field_names,
        "rows": table.rows,
        "chart": drawn(partial(draw_chart, evaluations), "accuracies as bars"),
    }

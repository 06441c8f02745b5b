"""A search's result as tables and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from atom_plugin.runtime.table_text import remark, table_text
from atom_plugin.search.correlation import Agreement, Interval
from atom_plugin.search.result import ProxyResult, SearchResult
from atom_plugin.search.scores import Score

if TYPE_CHECKING:
    from prettytable import PrettyTable

_NOTHING = "-"
_AGREEMENT = (
    "n: candidates with a reference accuracy. [ ]: 95 % of bootstrap samples of the candidates. Regret: the best "
    "reference accuracy minus the best among the first k by the proxy, in points."
)


def search_table(result: SearchResult, *, top: int, latex: bool = False) -> str:
    """How proxies agree with the reference, the models they find, the ``top`` candidates, and failures.

    ``latex``: tables as rows of LaTeX, with the accompanying lines as comments.
    """
    summaries = result.summaries
    parts = [remark(_described(result), latex=latex)]
    if result.reference is not None:
        parts.append(table_text(_agreement_table(summaries, result.tops), latex=latex))
        parts.append(remark(_AGREEMENT, latex=latex))
    parts.append(table_text(_models_table(summaries), latex=latex))
    parts.append(table_text(_ranking_table(result, top), latex=latex))
    if notes := _notes(result):
        parts.append(remark("\n".join(notes), latex=latex))
    return "\n\n".join(parts)


def _described(result: SearchResult) -> str:
    lines = [f"{name}: {value}" for name, value in result.words.items()]
    if result.savings is not None:
        spent, full = result.savings
        lines.append(
            f"halving: {spent:,} epochs instead of {full:,} for full training, {_percent(1 - spent / full)} % saved"
        )
    return "\n".join(lines)


def _agreement_table(summaries: Sequence[ProxyResult], tops: Sequence[int]) -> PrettyTable:
    from prettytable import PrettyTable

    drawn = PrettyTable(
        [
            "proxy",
            "n",
            "Spearman",
            "Kendall",
            "n, top 5 %",
            "Spearman, top",
            "Kendall, top",
            *(f"regret@{k}" for k in tops),
        ]
    )
    drawn.align = "r"
    drawn.align["proxy"] = "l"
    for each in summaries:
        whole, best = _agreement(each.all), _agreement(each.top)
        drawn.add_row([each.name, *whole, *best, *(_percent(each.regrets.get(top)) for top in tops)])
    return drawn


def _models_table(summaries: Sequence[ProxyResult]) -> PrettyTable:
    from prettytable import PrettyTable

    names = [
        "proxy",
        "images stored",
        "shown",
        "seconds",
        "failed",
        "best model",
        "on the reference, %",
        "on all images, test, %",
    ]
    drawn = PrettyTable(names)
    drawn.align = "r"
    drawn.align["proxy"] = drawn.align["best model"] = "l"
    for each in summaries:
        shown = f"{each.images:,} x {each.epochs}"
        accuracies = _percent(each.best_reference), _percent(each.best_test)
        drawn.add_row(
            [
                each.name,
                f"{each.stored:,}",
                shown,
                f"{each.seconds:,.0f}",
                each.failed,
                each.best or _NOTHING,
                *accuracies,
            ]
        )
    return drawn


def _ranking_table(result: SearchResult, top: int) -> PrettyTable:
    """The first ``top`` candidates by the reference, else by the first proxy; accuracies in %, and ranks in brackets."""
    from prettytable import PrettyTable

    workloads = result.workloads()
    drawn = PrettyTable(["accuracy, % (place)", *(each.name for each in workloads)])
    drawn.align = "r"
    drawn.align["accuracy, % (place)"] = "l"
    places = {each.name: _places(result.merits(each.name)) for each in workloads}
    index = {candidate.name: number for number, candidate in enumerate(result.candidates)}
    for candidate in result.order()[:top]:
        cells = []
        for each in workloads:
            score, place = (
                result.scores.get(each.name, {}).get(candidate.name),
                places[each.name][index[candidate.name]],
            )
            cells.append(_NOTHING if score is None or place is None else f"{_percent(score.accuracy)} ({place})")
        drawn.add_row([candidate.name, *cells])
    return drawn


def _places(merits: Sequence[float | None]) -> list[int | None]:
    """Ranks from 1; equal values share a rank."""
    known = [merit for merit in merits if merit is not None]
    return [None if merit is None else 1 + sum(other > merit for other in known) for merit in merits]


def _notes(result: SearchResult) -> list[str]:
    unfit = [f"unfit: {name}: {reason}" for name, reason in result.unfit.items()]
    failed = [
        f"failed: {candidate} on {workload}: {score.error}"
        for workload, own in result.scores.items()
        for candidate, score in own.items()
        if score.error is not None
    ]
    return unfit + failed


def _agreement(found: Agreement | None) -> tuple[str, str, str]:
    if found is None:
        return _NOTHING, _NOTHING, _NOTHING
    return str(found.n), _interval(found.spearman), _interval(found.kendall)


def _interval(found: Interval) -> str:
    if found.value is None or found.low is None or found.high is None:
        return _NOTHING
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _percent(share: float | None) -> str:
    return _NOTHING if share is None else f"{100 * share:.2f}"


def as_csv(result: SearchResult) -> str:
    """A line per candidate, in the order of the ranking, under a header; accuracies are fractions in [0, 1]."""
    fields = list(dict.fromkeys(name for each in result.candidates for name in each.fields))
    rows = []
    for each in result.order():
        row: dict[str, object] = {"candidate": each.name}
        row |= {name: each.fields.get(name, "") for name in fields}
        for workload in result.workloads():
            row |= _columns(workload.name, result.scores.get(workload.name, {}), each.name)
        row["test accuracy"] = result.tests[each.name].accuracy if each.name in result.tests else None
        row["unfit"] = result.unfit.get(each.name)
        rows.append(row)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _columns(workload: str, own: Mapping[str, Score], candidate: str) -> dict[str, object]:
    score = own.get(candidate, Score())
    known = candidate in own
    return {
        f"{workload} accuracy": score.accuracy,
        f"{workload} epochs": score.epochs if known else None,
        f"{workload} seconds": round(score.seconds, 3) if known else None,
        f"{workload} error": score.error,
    }

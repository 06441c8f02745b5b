"""Results side by side: as a table and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from atom_plugin.evaluation.results import Evaluation, augmentation_name
from atom_plugin.evaluation.targets import HARD
from atom_plugin.runtime.table_text import remark, table_text
from atom_plugin.runtime.text import printable

if TYPE_CHECKING:
    from prettytable import PrettyTable


def evaluation_table(evaluations: Sequence[Evaluation], *, latex: bool = False) -> str:
    """A row per result, under a line with the budget that all share; settings that differ have their own columns.

    ``latex``: as rows of LaTeX, with the accompanying lines as comments.
    """
    drawn = table_text(results_table(evaluations), latex=latex)
    above = [remark(printable(line), latex=latex) for line in settings_words(evaluations)]
    below = [remark(note, latex=latex) for note in _notes(evaluations)]
    return "\n".join([*above, "", drawn, *below])


def settings_words(evaluations: Sequence[Evaluation]) -> list[str]:
    """Two lines: the budget that all share, and the meaning of the numbers."""
    parts = " and ".join(dict.fromkeys(evaluation.on for evaluation in evaluations))
    return [
        f"{shared_settings(evaluations)}.",
        f"{parts.capitalize()} accuracy after the last epoch: mean ± sample standard deviation over n networks.",
    ]


def results_table(evaluations: Sequence[Evaluation]) -> PrettyTable:
    """A row per result; settings that differ have their own columns."""
    from prettytable import PrettyTable

    settings = [evaluation.settings() for evaluation in evaluations]
    differing = differing_settings(evaluations)
    drawn = PrettyTable(["set", "IPC", "model", *differing, "n", "accuracy, %"])
    drawn.align = "l"
    for name in ("IPC", "n", "accuracy, %"):
        drawn.align[name] = "r"
    for evaluation, each in zip(evaluations, settings, strict=True):
        ipc = "all" if evaluation.ipc is None else str(evaluation.ipc)
        own = [each[name] for name in differing]
        count = len(evaluation.accuracies)
        cells = [evaluation.label, ipc, evaluation.architecture, *own, count, _percent(evaluation)]
        drawn.add_row([printable(cell) for cell in cells])
    return drawn


def shared_settings(evaluations: Sequence[Evaluation]) -> str:
    """The settings that all results share, as text."""
    differing = differing_settings(evaluations)
    shared = {name: value for name, value in evaluations[0].settings().items() if name not in differing}
    if shared.get("labels") == HARD:  # as of every set but a few: no news
        del shared["labels"]
    return ", ".join(f"{name} {value}" for name, value in shared.items())


def differing_settings(evaluations: Sequence[Evaluation]) -> list[str]:
    """The names of the settings that differ."""
    settings = [evaluation.settings() for evaluation in evaluations]
    return [name for name in settings[0] if len({each[name] for each in settings}) > 1]


def _percent(evaluation: Evaluation) -> str:
    if evaluation.mean is None:
        return "failed"
    mean = f"{100 * evaluation.mean:.2f}"
    return mean if evaluation.std is None else f"{mean} ± {100 * evaluation.std:.2f}"


def _notes(evaluations: Sequence[Evaluation]) -> list[str]:
    differing = differing_settings(evaluations)
    told = "augmentation" in differing  # else one model on one set might fail in several rows
    return [
        *([_preprocessing_note(evaluations)] if "preprocessing" in differing else []),
        *_failures(evaluations, told),
    ]


def _preprocessing_note(evaluations: Sequence[Evaluation]) -> str:
    """A line that names every preprocessing among the results, with the first set that has it."""
    first: dict[str, str] = {}
    for each in evaluations:
        first.setdefault(each.preprocessing, each.label)
    named = "; ".join(f"{label}: {words}" for words, label in first.items())
    return f"Sets differ in their preprocessing, so more than their images is compared ({named})."


def _failures(evaluations: Sequence[Evaluation], told: bool) -> list[str]:
    return [
        f"failed: {each.model} on {each.label}"
        f"{f', augmentation {augmentation_name(each.training)}' if told else ''}: {each.error}"
        for each in evaluations
        if each.error is not None
    ]


def as_csv(evaluations: Sequence[Evaluation]) -> str:
    """A line per result under a header; accuracies are fractions in [0, 1], files are joined by ``;``."""
    rows = [
        {
            "set": evaluation.label,
            "files": ";".join(evaluation.names),
            "method": evaluation.method,
            "ipc": evaluation.ipc,
            "model": evaluation.architecture,
            "n": len(evaluation.accuracies),
            "mean": evaluation.mean,
            "std": evaluation.std,
            "images": evaluation.images,
            **evaluation.settings(),
            "error": evaluation.error,
        }
        for evaluation in evaluations
    ]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()

"""The networks of a search as jobs of an evaluation, and the scores of candidates on workloads."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from atom_plugin.evaluation import EvaluationCell, EvaluationJob, Outcome
from atom_plugin.search.space import Candidate
from atom_plugin.search.workloads import Workload


@dataclass(frozen=True, kw_only=True)
class Score:
    """The score of a candidate on a workload: accuracies in [0, 1] of its networks after ``epochs``, in ``seconds`` in total.

    ``rung`` counts the halvings that it survived. ``error`` is the reason if there is no accuracy.
    """

    accuracies: tuple[float, ...] = ()
    seconds: float = 0.0
    epochs: int = 0
    rung: int = 0
    error: str | None = None

    @property
    def accuracy(self) -> float | None:
        """The mean over networks; None if one failed."""
        return None if self.error is not None or not self.accuracies else statistics.fmean(self.accuracies)

    @property
    def merit(self) -> float | None:
        """The sort key of candidates: more survived halvings first, then higher accuracy."""
        return None if self.accuracy is None else 2 * self.rung + self.accuracy

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"accuracy": self.accuracy, **asdict(self), "accuracies": list(self.accuracies)}


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchJob:
    """One network of a search: a job of an evaluation, with its candidate and workload."""

    candidate: Candidate
    workload: Workload
    job: EvaluationJob


def plan_search(
    candidates: Iterable[Candidate], workloads: Sequence[Workload], *, precision: str = "float32"
) -> list[SearchJob]:
    """Every network, candidate by candidate, so that the finished part of a stopped search is a smaller search."""
    planned = []
    for candidate in candidates:
        for workload in workloads:
            cell = EvaluationCell(
                subject=workload.subject,
                model=candidate.model,
                network=candidate.network,
                training=workload.training,
                precision=precision,
            )
            for repeat in range(workload.repeats):
                job = EvaluationJob(cell=cell, seed=workload.seed, repeat=repeat)
                planned.append(SearchJob(candidate=candidate, workload=workload, job=job))
    return planned


def scores_of(planned: Sequence[SearchJob], outcomes: Iterable[Outcome]) -> dict[str, dict[str, Score]]:
    """Scores by workload and by candidate, both by name. ``outcomes`` are the jobs' outcomes, in any order."""
    found = {id(outcome.job): outcome for outcome in outcomes}
    groups: dict[tuple[str, str], list[Outcome]] = {}
    epochs = {}
    for each in planned:
        key = each.workload.name, each.candidate.name
        epochs[key] = each.workload.training.epochs
        if (outcome := found.get(id(each.job))) is not None:
            groups.setdefault(key, []).append(outcome)
    scores: dict[str, dict[str, Score]] = {}
    for (workload, candidate), group in groups.items():
        errors = [outcome.error for outcome in group if outcome.error is not None]
        scores.setdefault(workload, {})[candidate] = Score(
            accuracies=tuple(outcome.accuracy for outcome in group if outcome.accuracy is not None),
            seconds=sum(outcome.seconds for outcome in group),
            epochs=epochs[workload, candidate],
            error=errors[0] if errors else None,
        )
    return scores


def ranked(candidates: Iterable[Candidate], scores: Mapping[str, Score]) -> list[Candidate]:
    """The best first; equal ones in their order, those without an accuracy last."""

    def place(candidate: Candidate) -> float:
        merit = scores.get(candidate.name, Score()).merit
        return float("inf") if merit is None else -merit

    return sorted(candidates, key=place)

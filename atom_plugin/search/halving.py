"""Successive halving (Jamieson & Talwalkar, 2016): little training for all, more for those that do well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from atom_plugin.search.scores import Score, ranked
from atom_plugin.search.space import Candidate
from atom_plugin.search.workloads import Workload

KEEP = 3
"""One of so many candidates goes on to the next rung, which has so many times as many epochs."""

RUNGS = 3


def rung_epochs(epochs: int) -> list[int]:
    """The epochs of each rung, the last of which has them all; fewer rungs where there are too few."""
    return sorted({max(1, round(epochs / KEEP**below)) for below in range(RUNGS)})


def rung_workload(workload: Workload, share: float) -> Workload:
    """The workload for ``share`` of its epochs, at least one. A network starts anew: its rate's course depends on them."""
    training = workload.training
    return replace(workload, training=replace(training, epochs=max(1, round(share * training.epochs))))


def survivors(candidates: Sequence[Candidate], scores: Mapping[str, Score]) -> list[Candidate]:
    """The best third, rounded up, in their order; none whose training failed."""
    best = ranked(candidates, scores)[: -(-len(candidates) // KEEP)]
    kept = {each.name for each in best if each.name in scores and scores[each.name].merit is not None}
    return [each for each in candidates if each.name in kept]


def merged(before: Mapping[str, Score], reached: Mapping[str, Score], rung: int) -> dict[str, Score]:
    """The scores after ``rung``: those ``reached`` there, and of other candidates those ``before``; seconds add up."""
    spent = {name: score.seconds for name, score in before.items()}
    new = {
        name: replace(score, rung=rung, seconds=score.seconds + spent.get(name, 0.0)) for name, score in reached.items()
    }
    return {**before, **new}


def epochs_spent(candidates: int, epochs: Sequence[int]) -> tuple[int, int]:
    """Epochs that the rungs take of so many candidates, and that all take at full length."""
    spent, left = 0, candidates
    for each in epochs:
        spent += left * each
        left = -(-left // KEEP)
    return spent, candidates * epochs[-1]

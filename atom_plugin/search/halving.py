"""Successive halving (Jamieson & Talwalkar, 2016): little training for all candidates, more for the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from atom_plugin.search.scores import Score, ranked
from atom_plugin.search.space import Candidate
from atom_plugin.search.workloads import Workload

KEEP = 3
"""One of this many candidates continues to the next rung, which has this many times as many epochs."""

RUNGS = 3


def rung_epochs(epochs: int) -> list[int]:
    """The epochs of each rung; the last has all of them; fewer rungs if there are too few epochs."""
    return sorted({max(1, round(epochs / KEEP**below)) for below in range(RUNGS)})


def rung_workload(workload: Workload, share: float) -> Workload:
    """The workload for the fraction ``share`` of its epochs, at least one. A network starts again, since its schedule depends
    on them.
    """
    training = workload.training
    return replace(workload, training=replace(training, epochs=max(1, round(share * training.epochs))))


def survivors(candidates: Sequence[Candidate], scores: Mapping[str, Score]) -> list[Candidate]:
    """The best third, rounded up, in their order, without failed trainings."""
    best = ranked(candidates, scores)[: -(-len(candidates) // KEEP)]
    kept = {each.name for each in best if each.name in scores and scores[each.name].merit is not None}
    return [each for each in candidates if each.name in kept]


def merged(before: Mapping[str, Score], reached: Mapping[str, Score], rung: int) -> dict[str, Score]:
    """The scores after ``rung``: ``reached`` there, and ``before`` for the other candidates; seconds add up."""
    spent = {name: score.seconds for name, score in before.items()}
    new = {
        name: replace(score, rung=rung, seconds=score.seconds + spent.get(name, 0.0)) for name, score in reached.items()
    }
    return {**before, **new}


def epochs_spent(candidates: int, epochs: Sequence[int]) -> tuple[int, int]:
    """Epochs that the rungs take for this many candidates, and that all would take at full length."""
    spent, left = 0, candidates
    for each in epochs:
        spent += left * each
        left = -(-left // KEEP)
    return spent, candidates * epochs[-1]

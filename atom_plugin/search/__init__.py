"""Architecture search: train many networks on a small set and rank them, instead of training each on all real images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from atom_plugin.datasets import Split
from atom_plugin.evaluation import NetworkResultsFile, Subject, run_jobs
from atom_plugin.evaluation.training_recipes import TrainConfig
from atom_plugin.runtime.device import resolve_device, resolve_precision
from atom_plugin.search.correlation import Agreement, Interval, correlate, regret
from atom_plugin.search.forecast import examine
from atom_plugin.search.scores import Score, plan_search, ranked, scores_of
from atom_plugin.search.space import Candidate, Space
from atom_plugin.search.workloads import Workload
from atom_plugin.store.synthetic_set import SyntheticSet

__all__ = [
    "Agreement",
    "Candidate",
    "Interval",
    "Score",
    "Space",
    "Standing",
    "correlate",
    "rank",
    "regret",
]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A candidate and its result; the ``score`` of a failed candidate has the reason."""

    candidate: Candidate
    score: Score


# The façade: as evaluation.evaluate, for many networks.
def rank(
    space: Space,
    synthetic_set: SyntheticSet,
    test: Split,
    config: TrainConfig,
    *,
    repeats: int = 1,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    tested_on: str = "",
    finished: NetworkResultsFile | None = None,
    on_epoch: Callable[[int], object] | None = None,
) -> list[Standing]:
    """Train ``repeats`` networks of every candidate on the set, test them on ``test``, and order the candidates by accuracy.

    ``test`` should be validation images (:func:`atom_plugin.datasets.validation.hold_out`), because the choice depends on it.
    Networks in ``finished`` are taken from it, others added to it; ``tested_on`` identifies ``test`` there. Candidates that
    cannot take the images or whose loss diverges come last, with the reason.
    """
    on, synthetic_set = resolve_device(device), synthetic_set.with_class_labels("an architecture search")
    subject = Subject(name="the set", synthetic_set=synthetic_set, test=test, tested_on=tested_on)
    kept = len(synthetic_set)
    workload = Workload(name="proxy", subject=subject, training=config, stored=kept, seed=seed, repeats=repeats)
    _, unfit = examine(space, synthetic_set.preprocessing.image_shape, len(synthetic_set.class_names))
    fit = [each for each in space if each.name not in unfit]
    planned = plan_search(fit, [workload], precision=resolve_precision(precision, on))
    held = {id(each.job): finished.outcome_of(each.job) for each in planned} if finished is not None else {}
    outcomes = [outcome for outcome in held.values() if outcome is not None]
    missing = [each.job for each in planned if held.get(id(each.job)) is None]
    for outcome in run_jobs(missing, device=on, at_once=None if finished is None else 1, on_epoch=on_epoch):
        outcomes.append(outcome)
        if finished is not None and outcome.error is None:
            finished.append(outcome)
    scores: dict[str, Score] = {name: Score(error=reason) for name, reason in unfit.items()}
    scores |= scores_of(planned, outcomes).get(workload.name, {})
    return [Standing(candidate=each, score=scores[each.name]) for each in ranked(space, scores)]

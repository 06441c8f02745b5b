"""A search from its candidates and workloads to its result; the caller provides the function that trains networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from atom_plugin.datasets import SourceData
from atom_plugin.evaluation import Outcome
from atom_plugin.evaluation.training import TrainingRun
from atom_plugin.search import halving
from atom_plugin.search.forecast import predicted_seconds, seconds_per_image
from atom_plugin.search.result import SearchResult
from atom_plugin.search.scores import Score, SearchJob, plan_search, ranked, scores_of
from atom_plugin.search.space import Candidate, Space
from atom_plugin.search.workloads import Workload, everything

FULL, BEST, NONE = "full", "best", "none"  # who is trained on the reference: all, each proxy's best, nobody
Scores: TypeAlias = dict[str, dict[str, Score]]
Train: TypeAlias = Callable[[Sequence[SearchJob]], Iterable[Outcome]]


@dataclass(frozen=True, kw_only=True)
class Search:
    """The candidates and workloads of a search. ``unfit`` are the candidates that cannot take the images, with the reason,
    ``operations`` the costs of the others (:func:`~atom_plugin.search.forecast.examine`). ``kind`` says which candidates are
    trained on the ``reference``, which is None if none are. ``tests_best``: whether each proxy's best is trained on all images
    at the end, and tested.
    """

    space: Space
    unfit: Mapping[str, str]
    operations: Mapping[str, int]
    source: SourceData
    proxies: Sequence[Workload]
    reference: Workload | None
    kind: str = FULL
    halves: bool = False
    tests_best: bool = True
    seed: int = 0
    precision: str = "float32"

    @property
    def fit(self) -> list[Candidate]:
        """The candidates that can take the images."""
        return [each for each in self.space if each.name not in self.unfit]

    def planned(self) -> list[SearchJob]:
        """All networks that do not depend on other results; with halving as if all were trained at full length."""
        return self._jobs(self.fit, [*self.proxies, *self._references()])

    def predicted_seconds(self, jobs: Iterable[SearchJob], run: TrainingRun) -> float | None:
        """The predicted time of ``jobs``, one after the other, from a few timed candidates; None if none can be timed."""
        sample, fit = self.proxies[0], self.fit
        if not fit:
            return None
        per_image = seconds_per_image(fit, self.operations, sample.subject.synthetic_set, sample.training, run)
        if not per_image:
            return None
        jobs, references = list(jobs), self._references()
        on_proxies = predicted_seconds([each for each in jobs if each.workload not in references], per_image)
        whole = predicted_seconds([each for each in jobs if each.workload in references], per_image)
        if self.halves:
            spent, full = self._epochs_of_halving()
            on_proxies *= spent / full
        return on_proxies + whole

    def run(self, train: Train, *, tops: Sequence[int] = (1,), words: Mapping[str, str] | None = None) -> SearchResult:
        """Call ``train`` to train the networks, and return the result; ``words`` are the result's description."""
        savings = None
        if self.halves:
            scores = self._halved(train)
            savings = self._epochs_of_halving()
            scores |= self._scores(train, self._jobs(self.fit, self._references()))
        else:
            scores = self._scores(train, self.planned())
        return SearchResult(
            candidates=self.space.candidates,
            proxies=self.proxies,
            reference=self.reference if self.kind == FULL else None,
            scores=scores,
            tests=self._tests(train, scores),
            unfit=self.unfit,
            words=words or {},
            tops=tops,
            seed=self.seed,
            savings=savings,
        )

    def _references(self) -> list[Workload]:
        return [self.reference] if self.reference is not None and self.kind == FULL else []

    def _jobs(self, candidates: Iterable[Candidate], workloads: Sequence[Workload]) -> list[SearchJob]:
        return plan_search(candidates, workloads, precision=self.precision)

    def _scores(self, train: Train, planned: Sequence[SearchJob]) -> Scores:
        return scores_of(planned, train(planned))

    def _halved(self, train: Train) -> Scores:
        """Scores by proxy, those of a candidate's last rung."""
        left = {each.name: self.fit for each in self.proxies}
        scores: Scores = {each.name: {} for each in self.proxies}
        rungs = self._rungs()
        for rung, epochs in enumerate(rungs):
            planned = []
            for proxy in self.proxies:
                planned += self._jobs(left[proxy.name], [halving.rung_workload(proxy, epochs / rungs[-1])])
            reached = self._scores(train, planned)
            for proxy in self.proxies:
                own = reached.get(proxy.name, {})
                scores[proxy.name] = halving.merged(scores[proxy.name], own, rung)
                left[proxy.name] = halving.survivors(left[proxy.name], own)
        return scores

    def _rungs(self) -> list[int]:
        """Epochs on sets; other proxies have the same fractions of theirs."""
        return halving.rung_epochs(self.proxies[0].training.epochs)

    def _epochs_of_halving(self) -> tuple[int, int]:
        return halving.epochs_spent(len(self.fit), self._rungs())

    def _tests(self, train: Train, scores: Scores) -> dict[str, Score]:
        """The accuracy of each proxy's best candidate on the test images, trained on all images."""
        if self.reference is None or not self.tests_best:
            return {}
        best: dict[str, Candidate] = {}
        for proxy in self.proxies:
            own = scores.get(proxy.name, {})
            for candidate in ranked(self.fit, own)[:1]:
                if candidate.name in own and own[candidate.name].merit is not None:
                    best[candidate.name] = candidate
        last = everything(self.reference, self.source)
        return self._scores(train, self._jobs(best.values(), [last])).get(last.name, {})

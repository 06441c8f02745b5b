"""A search's result: how each proxy agrees with the reference, which model it finds, and all scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from atom_plugin.search.correlation import Agreement, correlate, regret
from atom_plugin.search.scores import Score, ranked
from atom_plugin.search.space import Candidate
from atom_plugin.search.workloads import Workload

TOP_SHARE = 0.05
_NONE: Mapping[str, Score] = {}


@dataclass(frozen=True, kw_only=True)
class ProxyResult:
    """The quality of a proxy. The comparisons with the reference are None without one.

    ``top`` is its agreement over the best 5 % by the reference. ``regrets`` are by number of top candidates k: the accuracy of
    the best of all minus that of the best among the proxy's first k. ``best`` is the candidate that it ranks first,
    ``best_reference`` its accuracy on the reference, and ``best_test`` its accuracy on the test images after training on all
    images.
    """

    name: str
    images: int
    stored: int
    epochs: int
    repeats: int
    seconds: float
    failed: int
    best: str | None
    best_reference: float | None
    best_test: float | None
    all: Agreement | None
    top: Agreement | None
    regrets: Mapping[int, float | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """``scores`` are by workload and candidate, ``unfit`` the reasons why candidates cannot take the images; all by name.

    ``words`` describe the search. ``savings`` are the epochs on a set that halving took, and that full training would have
    taken.
    """

    candidates: Sequence[Candidate]
    proxies: Sequence[Workload]
    reference: Workload | None
    scores: Mapping[str, Mapping[str, Score]]
    tests: Mapping[str, Score]
    unfit: Mapping[str, str]
    words: Mapping[str, Any]
    tops: Sequence[int]
    seed: int = 0
    savings: tuple[int, int] | None = None

    def merits(self, workload: str) -> list[float | None]:
        """The value that orders candidates on a workload; None if the training failed."""
        own = self.scores.get(workload, _NONE)
        return [own.get(each.name, Score()).merit for each in self.candidates]

    @cached_property
    def summaries(self) -> list[ProxyResult]:
        """One summary for each proxy."""
        return [self._summary(each) for each in self.proxies]

    def _summary(self, proxy: Workload) -> ProxyResult:
        own = self.scores.get(proxy.name, _NONE)
        order = ranked(self.candidates, own)
        best = order[0].name if order and own.get(order[0].name, Score()).merit is not None else None
        told: dict[str, Any] = {"all": None, "top": None}
        true = None
        if self.reference is not None:
            merits, wanted = self.merits(proxy.name), self.merits(self.reference.name)
            if any(each is not None for each in wanted):
                told = {
                    "all": correlate(merits, wanted, seed=self.seed),
                    "top": correlate(merits, wanted, share=TOP_SHARE, seed=self.seed),
                    "regrets": {top: regret(merits, wanted, top) for top in self.tops},
                }
            true = self.scores.get(self.reference.name, _NONE).get(best or "", Score()).accuracy
        return ProxyResult(
            name=proxy.name,
            images=len(proxy.subject),
            stored=proxy.stored,
            epochs=proxy.training.epochs,
            repeats=proxy.repeats,
            seconds=sum(score.seconds for score in own.values()),
            failed=sum(score.error is not None for score in own.values()),
            best=best,
            best_reference=true,
            best_test=self.tests.get(best or "", Score()).accuracy,
            **told,
        )

    def order(self) -> list[Candidate]:
        """The candidates ordered by the reference if all have one, else by the first proxy."""
        by = self.proxies[0].name if self.reference is None else self.reference.name
        return ranked(self.candidates, self.scores.get(by, _NONE))

    def workloads(self) -> list[Workload]:
        """The proxies, and the reference if there is one."""
        return [*self.proxies, *([] if self.reference is None else [self.reference])]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        rows = [
            {
                "candidate": each.name,
                "fields": dict(each.fields),
                "unfit": self.unfit.get(each.name),
                "scores": {name: own[each.name].to_json() for name, own in self.scores.items() if each.name in own},
                "test": self.tests[each.name].to_json() if each.name in self.tests else None,
            }
            for each in self.order()
        ]
        savings = None if self.savings is None else dict(zip(("epochs", "full_epochs"), self.savings, strict=True))
        return {
            **self.words,
            "halving": savings,
            "proxies": [asdict(each) for each in self.summaries],
            "candidates": rows,
        }

"""Searches whose networks are looked up instead of trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from small import coloured_source, small_selection

from atom_plugin.datasets.validation import hold_out
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.evaluation import Outcome
from atom_plugin.evaluation.training_recipes import TrainConfig
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.search import Candidate, Space
from atom_plugin.search.scores import SearchJob
from atom_plugin.search.searching import Search
from atom_plugin.search.workloads import ProxyPlan, proxies, reference

SET = "a.h5"
Reached = Callable[[SearchJob], float | str]


@cache
def source():
    return coloured_source(classes=3, per_class=12)


@cache
def small_set(ipc: int = 2):
    return selected_set(small_selection(ipc=ipc, method="herding"), source())


def widths(*values: int) -> Space:
    """ConvNets of these widths."""
    return Space("widths", tuple(Candidate(fields={"width": w}, network=ConvNetConfig(width=w)) for w in values))


def search_over(space: Space, *, names: Sequence[str] = (), epochs: int = 9, repeats: int = 1, **more) -> Search:
    """A search on a set of six images, with a reference of five epochs."""
    held = hold_out(source(), 0.25)
    how = {"training": TrainConfig(epochs=epochs), "repeats": repeats, "precision": "float32", "device": "cpu"}
    found = proxies([(SET, small_set())], held, ProxyPlan(names=names, **how))
    settings = {
        "unfit": {},
        "operations": {each.name: 1 for each in space},
        "reference": reference(small_set(), held, epochs=5),
        **more,
    }
    return Search(space=space, source=held, proxies=found, **settings)


class LookedUp:
    """What trains networks here: ``reached`` tells an accuracy or an error; each takes as many seconds as it has epochs."""

    def __init__(self, reached: Reached) -> None:
        self.reached = reached
        self.jobs: list[SearchJob] = []

    def __call__(self, jobs: Sequence[SearchJob]) -> list[Outcome]:
        self.jobs += jobs
        outcomes = []
        for each in jobs:
            found, seconds = self.reached(each), float(each.workload.training.epochs)
            told = {"error": found} if isinstance(found, str) else {"accuracy": found}
            outcomes.append(Outcome(job=each.job, seconds=seconds, **told))
        return outcomes

    def trained(self, workload: str) -> list[tuple[str, int]]:
        """Candidates and epochs, in their order, on a workload."""
        mine = [each for each in self.jobs if each.workload.name == workload]
        return [(each.candidate.name, each.workload.training.epochs) for each in mine]

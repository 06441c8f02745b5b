"""The streams of an experiment's class orders, each prepared when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atom_plugin.datasets import SourceData
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.integrations.avalanche.benchmark import class_order, make_benchmark, split_classes
from atom_plugin.replay.suppliers import only_classes
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One class order of one source: what arrives when, in which preprocessing, and where its memory's sets are kept."""

    data: SourceData
    steps: Sequence[Sequence[int]]
    preprocessing: Preprocessing
    order: int
    folder: Path
    benchmark: Any


class Streams:
    """The streams of one source in ``steps`` steps, one at a time.

    Its preprocessed images are the largest thing that a comparison holds: all modes should share one of these. The
    preprocessing is that of ``sets`` where there are any; else that of ``recipe``, fitted on the first experience's images
    alone, as the classes to come are not known yet (a source's own constants are taken as they are).
    """

    def __init__(
        self, data: SourceData, steps: int, recipe: DistillConfig, *, folder: Path, sets: Sequence[SyntheticSet] = ()
    ) -> None:
        self.data = data
        self.steps = steps
        self.folder = folder
        self.sets = tuple(sets)
        self._recipe = recipe
        self._last: Stream | None = None

    def classes(self, order: int) -> list[list[int]]:
        """The classes of each step. Raises ConfigError for more steps than classes."""
        return split_classes(class_order(len(self.data.class_names), order), self.steps)

    def get(self, order: int) -> Stream:
        """The stream of the ``order``-th class order, from 0. Raises ConfigError where the source does not do for one."""
        if self._last is None or self._last.order != order:
            steps = self.classes(order)
            self._last = None  # before the next is made: two would be held at once
            preprocessing = self._preprocessing(steps[0])
            self._last = Stream(
                data=self.data,
                steps=steps,
                preprocessing=preprocessing,
                order=order,
                folder=self.folder,
                benchmark=make_benchmark(self.data, steps, preprocessing),
            )
        return self._last

    def describe(self) -> str:
        """Where the preprocessing comes from, in words."""
        if self.sets:
            return "that of the stored sets"
        parts = []
        if self._recipe.standardise:
            parts.append("constants of the source" if self.data.mean else "mean and std of the first experience")
        if self._recipe.zca_eps is not None:
            parts.append("ZCA of the first experience")
        return " and ".join(parts) or "none"

    def _preprocessing(self, first: Sequence[int]) -> Preprocessing:
        if self.sets:
            return self.sets[0].preprocessing
        return self._recipe.fit_preprocessing(only_classes(self.data, first))

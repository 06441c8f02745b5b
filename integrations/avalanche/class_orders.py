"""The streams of an experiment's class orders, each prepared when it is needed."""

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
    """One class order of one source: the classes of each step, the preprocessing, and the folder of its memory's sets."""

    data: SourceData
    steps: Sequence[Sequence[int]]
    preprocessing: Preprocessing
    order: int
    folder: Path
    benchmark: Any


class Streams:
    """The streams of one source in ``steps`` steps, one in memory at a time.

    All modes should share one instance, because the preprocessed images take most of a comparison's memory. ``sets``, if
    given, determine the preprocessing; else ``recipe`` does, fitted on the first experience's images only, since later classes
    are not known yet (constants of the source are used unchanged).
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
        """The stream of the ``order``-th class order, from 0. Raises ConfigError if the source cannot form one."""
        if self._last is None or self._last.order != order:
            steps = self.classes(order)
            self._last = None  # freed before the next is made, so that only one is in memory
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
        """The origin of the preprocessing, as text."""
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

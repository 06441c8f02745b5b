"""A storage policy for Avalanche whose buffer holds a replay memory of synthetic images."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from avalanche.benchmarks.utils.utils import concat_datasets
from avalanche.training.storage_policy import ExemplarsBuffer

from atom_plugin.datasets import SourceData
from atom_plugin.errors import ConfigError, require
from atom_plugin.integrations.avalanche.buffers import memory_dataset
from atom_plugin.integrations.avalanche.strategies import check_batches, check_strategy, keeps_more
from atom_plugin.integrations.avalanche.stream_samples import (
    begins,
    check_preprocessing,
    check_size,
    classes_of,
    classes_to_come,
    ends,
    infer_preprocessing,
    raw_images,
    task_of,
)
from atom_plugin.replay.memory import Budget, ReplayMemory
from atom_plugin.replay.suppliers import Supplier, require_supplier
from atom_plugin.runtime.randomness import preserved_random_state
from atom_plugin.transforms.preprocessing import Preprocessing


class SyntheticMemory(ExemplarsBuffer):  # type: ignore[misc]  # Avalanche ships no types
    """Holds images that ``supplier`` gives for every experience's classes, in a :class:`ReplayMemory`.

    A storage policy for Avalanche's plugins and strategies: where they take one, as ``ReplayPlugin(mem_size=policy.max_size,
    storage_policy=policy)``, or as their ``storage_policy`` afterwards. docs/continual-learning.md lists those tried. Those
    that keep logits or features beside the samples (``DER``, ``FeatureReplay``) are refused. The buffer's samples look like
    the stream's: (x, y) or (x, y, task), y being the class ids of the benchmark.

    ``memory`` is a :class:`Budget` to begin with, or a memory to go on with. ``source`` has the real images where the
    stream's own are processed already, with the benchmark's class ids; all of its training images of an experience's classes
    are used. Else they are taken from each experience, before its transforms. ``stream_preprocessing`` says what was done to
    such a stream's images; else that is found out from the transforms, and compared with the preprocessing of the supplier's
    sets. ``class_names`` name all classes of the benchmark, for the file (default: those of ``source``, or the class ids).

    A class that comes again shares its places between the times it came (see :meth:`ReplayMemory.add`); sets made before
    have nothing new of it, and what is held stays. Random states (torch, numpy, Python) are the same after a call as before it.
    """

    def __init__(
        self,
        memory: Budget | ReplayMemory,
        supplier: Supplier,
        *,
        source: SourceData | None = None,
        stream_preprocessing: Preprocessing | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        require_supplier(supplier)
        for name, value, kind in (
            ("source", source, SourceData),
            ("stream_preprocessing", stream_preprocessing, Preprocessing),
        ):
            if value is not None:
                require(name, value, kind)
        self.memory = memory if isinstance(memory, ReplayMemory) else ReplayMemory(memory)
        self.supplier = supplier
        self.source = source
        self.class_names = class_names
        self._stated = stream_preprocessing
        self._agreed: Preprocessing | None = None
        self._pending: list[Any] = []
        self._dataset: tuple[Any, Any] | None = None
        super().__init__(_most_images(self.memory.budget, self._names))

    @property
    def buffer(self) -> Any:
        """The images held, as an Avalanche dataset; an empty one before the first experience."""
        held = self.memory.images if len(self.memory) else None
        if self._dataset is None or self._dataset[0] is not held:
            self._dataset = held, concat_datasets([]) if held is None else memory_dataset(self.memory)
        return self._dataset[1]

    @buffer.setter
    def buffer(self, new_buffer: Any) -> None:
        """Nothing: Avalanche's constructor sets an empty one; the memory decides here."""

    @property
    def buffer_datasets(self) -> list[Any]:
        """The images of each class held as an Avalanche dataset, by class id."""
        labels = self.memory.images.decoded().labels if len(self.memory) else torch.zeros(0)
        return [self.buffer.subset((labels == label).nonzero().flatten().tolist()) for label in self.memory.classes]

    @property
    def buffer_groups(self) -> dict[int, Any]:
        """By class id, what has the images of the class as its ``buffer``: policies that balance groups have these."""
        return {
            label: SimpleNamespace(buffer=dataset)
            for label, dataset in zip(self.memory.classes, self.buffer_datasets, strict=True)
        }

    @property
    def _names(self) -> tuple[str, ...] | None:
        names = self.class_names or (self.source.class_names if self.source else None)
        return None if names is None else tuple(names)

    @property
    def gathering(self) -> bool:
        """Whether the parts of an online stream's experience are being gathered, and its classes are not yet in."""
        return bool(self._pending)

    def check(self, experience: Any) -> None:
        """Agree with the stream on layout, boundaries and preprocessing, before any work.

        Raises ConfigError for a stream that does not fit, naming both preprocessings where they differ, and for a budget that
        the classes to come will not fit into.
        """
        with preserved_random_state():
            if self.supplier.needs_images and begins(experience) and self._pending:
                raise ConfigError(
                    f"an online experience stopped after {len(self._pending)} parts and another begins; give the policy each "
                    "part of an experience, down to the last"
                )
            task = task_of(experience)
            if len(self.memory) and (task is None) == bool(self.memory.tasks):
                theirs, ours = ("(x, y)", "(x, y, task)") if task is None else ("(x, y, task)", "(x, y)")
                raise ConfigError(
                    f"the stream's samples are {theirs}, those of the memory {ours}; give it the kind of stream that filled it"
                )
            if self._agreed is None:
                agreed = self._agree(experience.dataset)
                self._room_for([*classes_of(experience), *classes_to_come(experience)], agreed)
                self._agreed = agreed

    def _agree(self, dataset: Any) -> Preprocessing:
        held, supplied = self.memory.preprocessing, self.supplier.preprocessing
        if held is not None and supplied is not None and not held.matches(supplied):
            raise ConfigError(
                f"the memory's preprocessing is {held.describe()}, that of what is to fill it {supplied.describe()}; give "
                "both the same"
            )
        known = held or supplied
        if self._stated is None:
            if known is None:
                return infer_preprocessing(dataset)
            check_preprocessing(dataset, known)
            return known
        if known is not None and not known.matches(self._stated):
            raise ConfigError(
                f"the memory's preprocessing is {known.describe()} for {known.image_shape}, the stream's "
                f"{self._stated.describe()} for {self._stated.image_shape}; give both the same"
            )
        check_size(dataset, self._stated)
        if self.supplier.needs_images and self.source is None:
            raw_images([dataset.subset([0])], None)
        return self._stated

    def post_adapt(self, agent_state: Any, exp: Any) -> None:
        """Add images of the classes of ``exp``.

        Parts of an online stream are gathered until their experience ends. Raises ConfigError for a stream or a strategy
        (``agent_state``) that does not fit, and what the supplier raises.
        """
        with preserved_random_state():
            check_strategy(agent_state, task_of(exp))
        self.check(exp)
        with preserved_random_state(), torch.enable_grad():
            if self.supplier.needs_images:
                self._gather_parts(exp)
            elif new := [label for label in classes_of(exp) if label not in self.memory.classes]:
                self._supply(None, new, task_of(exp))
        if len(self.memory):
            check_batches(agent_state, min(Counter(self.memory.images.labels.tolist()).values()))

    def _gather_parts(self, exp: Any) -> None:
        self._pending.append(exp.dataset)
        if not ends(exp, len(self._pending)):
            return
        gathered, self._pending = self._pending, []
        classes = sorted({int(label) for dataset in gathered for label in dataset.targets})
        self._supply(self.source or raw_images(gathered, self.class_names), classes, task_of(exp))

    def _supply(self, data: SourceData | None, classes: Sequence[int], task: int | None) -> None:
        assert self._agreed is not None
        ipc = max(self._room_for(classes, self._agreed).values())
        new = self.supplier.supply(data, classes, ipc=ipc, preprocessing=self._agreed)
        names = self._names
        if names is not None and names != new.class_names:
            pairs = itertools.zip_longest(names, new.class_names)
            mine, theirs = next(pair for pair in pairs if pair[0] != pair[1])
            raise ConfigError(
                f"the stream's class names are not those of the set for its memory: {mine!r} against {theirs!r}; give both the "
                "same, in the same order"
            )
        self.memory.add(new, task=task)

    def _room_for(self, classes: Sequence[int], agreed: Preprocessing) -> dict[int, int]:
        shape = agreed.image_shape
        return self.memory.room_for(classes, shape, self.supplier.storage(shape))

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Raises ConfigError: a strategy calls its plugins so, and would go on without a memory if a policy had no answer."""
        raise ConfigError(
            "a SyntheticMemory is a storage policy, and no plugin: it holds images, and puts none into a batch; give the "
            "strategy plugins=[SyntheticReplay(memory)]"
        )

    def update(self, strategy: Any, **kwargs: Any) -> None:
        """As :meth:`post_adapt`; Avalanche's own plugins still call it, and its base class warns of that."""
        self.post_adapt(strategy, strategy.experience)

    def update_from_dataset(self, new_data: Any, strategy: Any = None) -> None:
        """Raises ConfigError: ``FeatureReplay`` hands its features over here."""
        raise ConfigError(keeps_more("FeatureReplay", "features"))

    def resize(self, strategy: Any, new_size: int) -> None:
        """Hold at most ``new_size`` images in all, shared by the classes. Raises ConfigError where that is too few."""
        self.memory.resize(replace(self.memory.budget, max_images=new_size))
        self.max_size = new_size

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the memory to one HDF5 file. Raises ConfigError in the middle of an experience of an online stream."""
        if self._pending:
            raise ConfigError(
                "the memory is in the middle of an experience of an online stream; save it after the experience's last part"
            )
        self.memory.save(path, force=force)

    def load(self, path: str | Path) -> None:
        """Go on with the memory that :meth:`save` wrote. Raises StoreError where the file is none."""
        self.memory = ReplayMemory.load(path)
        self.max_size = _most_images(self.memory.budget, self._names)
        self._agreed = None
        self._pending.clear()


def _most_images(budget: Budget, class_names: Sequence[str] | None) -> int:
    """What Avalanche calls the memory size; where neither budget nor classes tell, no bound."""
    if budget.max_images is not None:
        return budget.max_images
    if budget.ipc is not None and class_names is not None:
        return budget.ipc * len(class_names)
    return sys.maxsize

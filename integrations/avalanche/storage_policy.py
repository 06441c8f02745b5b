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
    """Holds the images that ``supplier`` gives for the classes of every experience, in a :class:`ReplayMemory`.

    A storage policy for Avalanche's plugins and strategies: pass it to them, as in ``ReplayPlugin(mem_size=policy.max_size,
    storage_policy=policy)``, or set their ``storage_policy`` later. docs/continual-learning.md lists the strategies tested.
    Strategies that keep logits or features of the samples (``DER``, ``FeatureReplay``) are refused. The buffer's samples have
    the stream's form: (x, y) or (x, y, task), where y are the class ids of the benchmark.

    ``memory`` is a :class:`Budget` for a new memory, or a memory, e.g. one that keeps logits. ``source`` has the real images,
    with the benchmark's class ids, if the stream's images are already processed; all of its training images of an experience's
    classes are used. Without it, the images come from each experience, before its transforms. ``stream_preprocessing`` is the
    preprocessing of an already processed stream; by default it is estimated from the transforms, and compared with the
    preprocessing of the supplier's sets. ``class_names`` name all classes of the benchmark, for the file (default:
    ``source``'s, or the class ids).

    If a class arrives again, its images are divided among its arrivals (see :meth:`ReplayMemory.add`); existing sets have no
    new images of it, so the stored images stay. Calls restore the random states (torch, numpy, Python).
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
        """The stored images as an Avalanche dataset; empty before the first experience."""
        held = self.memory.images if len(self.memory) else None
        if self._dataset is None or self._dataset[0] is not held:
            self._dataset = held, concat_datasets([]) if held is None else memory_dataset(self.memory)
        return self._dataset[1]

    @buffer.setter
    def buffer(self, new_buffer: Any) -> None:
        """Does nothing: Avalanche's constructor sets an empty buffer, but the buffer follows from the memory."""

    @property
    def buffer_datasets(self) -> list[Any]:
        """The stored images of each class as an Avalanche dataset, by class id."""
        labels = self.memory.images.decoded_labels if len(self.memory) else torch.zeros(0)
        return [self.buffer.subset((labels == label).nonzero().flatten().tolist()) for label in self.memory.classes]

    @property
    def buffer_groups(self) -> dict[int, Any]:
        """By class id, an object whose ``buffer`` has the images of the class, as in Avalanche's balanced policies."""
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
        """Whether parts of an online stream's experience are collected, but its classes are not yet in the memory."""
        return bool(self._pending)

    def check(self, experience: Any) -> None:
        """Check the stream's layout, boundaries and preprocessing before any work.

        Raises ConfigError for a stream that does not fit, naming both preprocessings if they differ, and for a budget too
        small for the classes to come.
        """
        with preserved_random_state():
            if self.supplier.needs_images and begins(experience) and self._pending:
                raise ConfigError(
                    f"an online experience stopped after {len(self._pending)} parts and another begins; give the policy all "
                    "parts of an experience"
                )
            task = task_of(experience)
            if len(self.memory) and (task is None) == bool(self.memory.tasks):
                theirs, ours = ("(x, y)", "(x, y, task)") if task is None else ("(x, y, task)", "(x, y)")
                raise ConfigError(
                    f"the stream's samples are {theirs}, the memory's are {ours}; use the kind of stream that filled it"
                )
            if self._agreed is None:
                agreed = self._agree(experience.dataset)
                self._room_for([*classes_of(experience), *classes_to_come(experience)], agreed)
                self._agreed = agreed

    def _agree(self, dataset: Any) -> Preprocessing:
        held, supplied = self.memory.preprocessing, self.supplier.preprocessing
        if held is not None and supplied is not None and not held.matches(supplied):
            raise ConfigError(
                f"the memory's preprocessing is {held.describe()}, the supplier's is {supplied.describe()}; give both the "
                "same"
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

        Parts of an online stream are collected until their experience ends. Raises ConfigError for a stream or a strategy
        (``agent_state``) that does not fit, and the supplier's errors.
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
                f"the class names of the stream and of the memory's set differ: {mine!r} against {theirs!r}; give both the "
                "same, in the same order"
            )
        self.memory.add(new, task=task)

    def _room_for(self, classes: Sequence[int], agreed: Preprocessing) -> dict[int, int]:
        shape, names = agreed.image_shape, self._names or range(max([*classes, *self.memory.classes]) + 1)
        logits = self.supplier.tiles(shape), len(names)
        return self.memory.room_for(classes, shape, self.supplier.storage(shape), logits=logits)

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Raises ConfigError: a strategy that got the policy as a plugin calls this, and would train without a memory."""
        raise ConfigError(
            "a SyntheticMemory is a storage policy, not a plugin: it holds images, but adds none to a batch; give the "
            "strategy plugins=[SyntheticReplay(memory)]"
        )

    def update(self, strategy: Any, **kwargs: Any) -> None:
        """The same as :meth:`post_adapt`; Avalanche's plugins still call it, and its base class warns about that."""
        self.post_adapt(strategy, strategy.experience)

    def update_from_dataset(self, new_data: Any, strategy: Any = None) -> None:
        """Raises ConfigError: ``FeatureReplay`` passes its features to this method."""
        raise ConfigError(keeps_more("FeatureReplay", "features"))

    def resize(self, strategy: Any, new_size: int) -> None:
        """Hold at most ``new_size`` images in total, shared by the classes. Raises ConfigError if that is too few."""
        self.memory.resize(replace(self.memory.budget, max_images=new_size))
        self.max_size = new_size

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the memory to one HDF5 file. Raises ConfigError in the middle of an experience of an online stream."""
        if self._pending:
            raise ConfigError(
                "the memory has only some parts of an online stream's experience; save it after the experience's last part"
            )
        self.memory.save(path, force=force)

    def load(self, path: str | Path) -> None:
        """Continue with the memory that :meth:`save` wrote.

        Raises StoreError if the file is not a memory, ConfigError if only one of it and this policy's memory keeps logits.
        """
        loaded = ReplayMemory.load(path)
        if loaded.keep_logits != self.memory.keep_logits:
            found, here = ("logits", "none") if loaded.keep_logits else ("no logits", "some")
            raise ConfigError(
                f"{path}: the memory keeps {found}, this policy's keeps {here}; make it with "
                f"ReplayMemory(budget, keep_logits={loaded.keep_logits})"
            )
        self.memory = loaded
        self.max_size = _most_images(self.memory.budget, self._names)
        self._agreed = None
        self._pending.clear()


def _most_images(budget: Budget, class_names: Sequence[str] | None) -> int:
    """Avalanche's memory size; unbounded if neither the budget nor the classes determine it."""
    if budget.max_images is not None:
        return budget.max_images
    if budget.ipc is not None and class_names is not None:
        return budget.ipc * len(class_names)
    return sys.maxsize

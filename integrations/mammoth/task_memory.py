"""A replay memory that is filled task by task from Mammoth's datasets."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from atom_plugin import store
from atom_plugin.distillation.set_config import METHODS
from atom_plugin.errors import ConfigError, shown, unknown
from atom_plugin.integrations.mammoth.task_data import class_names_of, normalisation_of, task_source
from atom_plugin.matchers import MATCHERS
from atom_plugin.replay.memory import Budget, ReplayMemory
from atom_plugin.replay.suppliers import DistillingSupplier, PrecomputedSupplier, SelectingSupplier, Supplier
from atom_plugin.runtime import bounded_json
from atom_plugin.runtime.randomness import preserved_random_state
from atom_plugin.store.synthetic_set import SyntheticSet


class TaskMemory:
    """At most ``size`` stored images in total, divided from the start among all ``classes`` of the stream.

    ``fill`` is a matcher for the distillation, or a selection method. ``options``, a JSON object, are ``overrides`` of the
    supplier in :mod:`atom_plugin.replay.suppliers`, which stores uint8 pixels by default. ``stored``, a file of a set with the
    dataset's class names in any order, replaces both. Raises ConfigError for options that do not fit, PluginError for a matcher
    that cannot be loaded, StoreError for a set that cannot be read.
    """

    def __init__(
        self,
        size: int,
        *,
        classes: int,
        fill: str = "atom",
        options: str = "{}",
        stored: str | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self._held = ReplayMemory(Budget(max_images=size, classes=classes))
        self._stored = None if stored is None else store.read(stored)
        self._supplier = _supplier(fill, _parsed(options), seed, device)

    @property
    def images(self) -> SyntheticSet:
        """The stored images. Raises ConfigError if there are none yet."""
        return self._held.images

    def add_task(self, dataset: Any) -> None:
        """Add the classes of the current task of a Mammoth dataset. Random states are restored.

        Raises ConfigError for a set whose classes differ from the dataset's, and the supplier's errors.
        """
        with preserved_random_state(), torch.enable_grad():
            if self._stored is None:
                data = task_source(dataset)
                classes = data.train.labels.unique().tolist()
                preprocessing = normalisation_of(dataset, data.image_shape)
                ipc = max(self._held.room_for(classes, data.image_shape).values())
                new = self._supplier.supply(data, classes, ipc=ipc, preprocessing=preprocessing)
            else:
                named = _with_class_ids(self._stored, class_names_of(dataset))
                labels = torch.as_tensor(dataset.train_loader.dataset.targets)
                classes = [y for y in labels.unique().tolist() if y >= 0 and y not in self._held.classes]
                ipc = max(self._held.room_for(classes, named.preprocessing.image_shape).values(), default=0)
                new = PrecomputedSupplier([named]).supply(None, classes, ipc=ipc, preprocessing=None)
            self._held.add(new)

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write to one HDF5 file, an ordinary set. Raises ConfigError if it is empty, StoreError if writing fails."""
        self._held.save(path, force=force)

    def as_bytes(self) -> torch.Tensor:
        """The bytes of the file that :meth:`save` writes, uint8; none if there are no images."""
        if not len(self._held):
            return torch.zeros(0, dtype=torch.uint8)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "memory.h5"
            self._held.save(path)
            return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)

    def restore(self, saved: torch.Tensor) -> None:
        """Continue with the result of :meth:`as_bytes`. Raises StoreError if it is damaged."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "memory.h5"
            path.write_bytes(saved.cpu().numpy().tobytes())
            self._held = ReplayMemory.load(path)


def _parsed(options: str) -> Mapping[str, Any]:
    try:
        parsed = bounded_json.parse(options)
    except ValueError as error:
        raise ConfigError(f"found --memory_options {shown(options)}, expected a JSON object: {error}") from None
    if not isinstance(parsed, dict):
        raise ConfigError(
            f"found --memory_options {shown(options)}, expected a JSON object such as '{{\"iterations\": 300}}'"
        )
    return parsed


def _supplier(fill: str, options: Mapping[str, Any], seed: int, device: str) -> Supplier:
    if fill in METHODS:
        return SelectingSupplier(method=fill, seed=seed, overrides=dict(options), device=device)
    if fill not in MATCHERS.names():
        raise ConfigError(unknown("way to fill the memory", fill, [*MATCHERS.names(), *METHODS]))
    MATCHERS.get(fill)
    return DistillingSupplier(overrides={"seed": seed, **options, "matcher": fill}, device=device)


def _with_class_ids(stored: SyntheticSet, names: tuple[str, ...]) -> SyntheticSet:
    """``stored`` with its classes numbered as in ``names``. Raises ConfigError if the classes differ."""
    if sorted(stored.class_names) != sorted(names) or len(set(names)) < len(names):
        mine, theirs = (sorted(set(a) - set(b)) for a, b in ((stored.class_names, names), (names, stored.class_names)))
        raise ConfigError(
            f"the set's classes are not the dataset's: only the set has {shown(mine)}, only the dataset {shown(theirs)}; "
            "make the set from the same classes, with the same names"
        )
    stored = stored.with_class_labels("a replay memory")
    ids = torch.tensor([names.index(name) for name in stored.class_names])
    labels = ids[stored.labels]
    order = labels.argsort(stable=True)
    return replace(stored, images=stored.images[order], labels=labels[order], class_names=names)

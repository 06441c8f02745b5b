"""The replay memory: some images per class, added class by class during a stream, within a budget."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from atom_plugin.errors import ConfigError, StoreError, require
from atom_plugin.replay.arrangement import class_major, first_images, first_rows, in_turns, turns
from atom_plugin.replay.budget import Budget
from atom_plugin.replay.logits import empty_logits, logit_bytes, widened
from atom_plugin.store.files import read_logits, write_fields
from atom_plugin.store.provenance import Provenance, merged_provenance
from atom_plugin.store.synthetic_set import STORAGE_TYPES, SyntheticSet, fields_of, read
from atom_plugin.transforms.preprocessing import Preprocessing

__all__ = ["Budget", "ReplayMemory"]

_KEY = "replay_memory"
_VERSION = 1


class ReplayMemory:
    """Synthetic (or selected real) images of the classes seen so far, all with one preprocessing, within a :class:`Budget`.

    The images are one :class:`SyntheticSet`, class-major, and are saved as an ordinary set's file: `store info`, evaluation and
    export work on a memory as on any set. A class that must shrink keeps its first images, which for herding are the best ones;
    the images of a class that was seen several times alternate, so that each time keeps its part. After an error the memory is
    unchanged.

    With ``keep_logits`` it also keeps the outputs that :meth:`store_logits` gets: for every image as networks see it (of a
    packed one, for each tile), a float16 for every class name. They take part in the budget from the moment when an image is
    added.
    """

    def __init__(self, budget: Budget, *, keep_logits: bool = False) -> None:
        require("budget", budget, Budget)
        self.budget = budget
        self.keep_logits = keep_logits
        self._held: SyntheticSet | None = None
        self._logits = empty_logits(0, 1, 0)
        self._sightings: dict[int, int] = {}
        self.tasks: dict[int, int] = {}
        """Task label by class id: for all classes, or for none. A class belongs to one task."""

    def __len__(self) -> int:
        return 0 if self._held is None else len(self._held)

    @property
    def images(self) -> SyntheticSet:
        """The images, class-major. Raises ConfigError while the memory is empty."""
        if self._held is None:
            raise ConfigError("the replay memory is empty; add a set of images first")
        return self._held

    @property
    def classes(self) -> list[int]:
        """The class ids in the memory, sorted."""
        return [] if self._held is None else self._held.classes

    @property
    def preprocessing(self) -> Preprocessing | None:
        """The preprocessing of the images; None while there are none."""
        return None if self._held is None else self._held.preprocessing

    @property
    def bytes(self) -> int:
        """Bytes in the memory, as the budget counts them."""
        return len(self) * self._bytes_each(self._held) if self._held is not None else 0

    @property
    def logits(self) -> torch.Tensor | None:
        """The stored logits of the images of ``images.decoded()``, float32 (N, classes): NaN for a class that had no head
        when they were stored, and for images that have none yet. None if the memory keeps no logits.
        """
        return self._logits.flatten(0, 1).float() if self.keep_logits else None

    def room_for(
        self,
        classes: Iterable[int],
        image_shape: tuple[int, int, int],
        storage: str = "float32",
        *,
        logits: tuple[int, int] = (0, 0),
    ) -> dict[int, int]:
        """Images that each of ``classes`` could have if added now, stored as ``storage``.

        ``logits``: the tiles of an image and the classes that have names, which a memory that keeps logits needs to know.
        Raises ConfigError if there is no room for one of each.
        """
        classes = set(classes)
        image_bytes = math.prod(image_shape) * STORAGE_TYPES[storage].itemsize
        if self.keep_logits:
            image_bytes += logit_bytes(*logits)
        shares = self.budget.shares(classes.union(self.classes), image_bytes)
        return {label: share for label, share in shares.items() if label in classes}

    def add(self, new: SyntheticSet, *, task: int | None = None) -> None:
        """Add the images of ``new``, of the task labelled ``task`` if the stream has tasks, and make room for them.

        A class seen for the n-th time gives an n-th of its places to the first of the new images (at least one, and the free
        places) and keeps the first of its old ones. New class names may follow the known ones, as in a stream that does not
        know its later classes. Soft labels are dropped, with a warning. Raises ConfigError if class names, preprocessing, image
        size or tasks contradict those in the memory, naming both.
        """
        require("the set to add", new, SyntheticSet)
        if not len(new):
            return
        new = new.with_class_labels("a replay memory")
        tasks = self._tasks_with(new.classes, task)
        sightings = self._sightings | {label: self._sightings.get(label, 0) + 1 for label in new.classes}
        none = new.at(slice(0))
        held, new = _alike(none if self._held is None else self._held, new)
        room = self.budget.shares({*held.classes, *new.classes}, self._bytes_each(new))
        had = Counter(held.labels.tolist())
        kept_new = first_images(
            new,
            {label: max(1, room[label] // sightings[label], room[label] - had[label]) for label in new.classes},
        )
        arriving = Counter(kept_new.labels.tolist())
        left = {label: max(0, room[label] - arriving[label]) for label in held.classes}
        kept = first_images(held, left)
        joined = in_turns([kept, kept_new], names=["the memory", "the set to add to it"])
        logits = self._joined_logits(first_rows(held.labels, left), kept.labels, kept_new)
        parts = [*self._parts(), new.provenance]
        self._held, self._logits = self._within(
            self.budget, joined, logits, parts=parts, sightings=sightings, tasks=tasks
        )
        self._sightings, self.tasks = sightings, tasks

    def store_logits(self, outputs: torch.Tensor) -> None:
        """Keep the learner's ``outputs`` for ``images.decoded()``, (images, heads), of those images that have none yet.

        Of a stream with tasks, those of another task's classes are left out; a network with more heads than class names keeps
        the named ones. Classes that have no head yet, and values beyond float16's range, count as not known. Raises ConfigError
        if the memory keeps no logits, and for another number of images or too few heads.
        """
        if not self.keep_logits:
            raise ConfigError("the memory keeps no logits; make it with ReplayMemory(budget, keep_logits=True)")
        expected = self.images.decoded_count, max(self.classes) + 1
        if outputs.ndim != 2 or len(outputs) != expected[0] or outputs.shape[1] < expected[1]:
            raise ConfigError(
                f"found outputs of shape {tuple(outputs.shape)}, expected {expected[0]} images and {expected[1]} heads or "
                "more; give the network's outputs for images.decoded()"
            )
        heads = min(outputs.shape[1], self._logits.shape[2])
        values = outputs.detach().cpu()[:, :heads].half().view(len(self), -1, heads)
        task_of = torch.tensor([self.tasks.get(label, -1) for label in range(heads)])
        other = (task_of >= 0) & (task_of != task_of[self.images.labels, None])
        missing = self._logits.isnan().all(2).all(1)
        kept = missing[:, None, None] & values.isfinite() & ~other[:, None]
        self._logits[:, :, :heads] = torch.where(kept, values, self._logits[:, :, :heads])

    def resize(self, budget: Budget) -> None:
        """Set another budget; classes that have more than their share keep their first images.

        Raises ConfigError if there is no room for one image of each class.
        """
        if self._held is not None:
            self._held, self._logits = self._within(
                budget,
                self._held,
                self._logits,
                parts=self._parts(),
                sightings=self._sightings,
                tasks=self.tasks,
            )
        self.budget = budget

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write to one HDF5 file, atomically: an ordinary set whose provenance has the memory's state as well, with the logits
        beside it.
        """
        write_fields(fields_of(self.images), path, force=force, logits=self._logits if self.keep_logits else None)

    @classmethod
    def load(cls, path: str | Path) -> ReplayMemory:
        """Read a file of :meth:`save`. Raises StoreError for another file, including a set that is not a memory."""
        held, logits = read(path), read_logits(path)
        state = held.provenance.config.get(_KEY)
        if not isinstance(state, dict):
            raise StoreError(f"{path}: is a synthetic set but not a saved replay memory; add it to one instead")
        if state.get("version") != _VERSION:
            raise StoreError(
                f"{path}: is a replay memory of version {state.get('version')!r}, expected {_VERSION}; update"
            )
        try:
            memory = cls(Budget(**state["budget"]), keep_logits=logits is not None)
            memory._sightings = {int(label): int(count) for label, count in state["sightings"].items()}
            memory.tasks = {int(label): int(task) for label, task in state["tasks"].items()}
            memory._held = held
            if logits is not None:
                if logits.shape[1] != held.factor**2:
                    raise ValueError(f"logits of {logits.shape[1]} tiles, images of {held.factor**2}")
                memory._logits = logits
            if not memory._parts():
                raise ValueError("it names no set that it was filled from")
            for name, by_class in (("sightings", memory._sightings), ("tasks", memory.tasks)):
                if sorted(by_class) != held.classes and (by_class or name == "sightings"):
                    raise ValueError(f"{name} of the classes {sorted(by_class)}, images of {held.classes}")
        except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
            raise StoreError(f"{path}: its replay memory's state is damaged ({error}); make it again") from error
        return memory

    def _tasks_with(self, classes: list[int], task: int | None) -> dict[int, int]:
        if len(self) and (task is None) == bool(self.tasks):
            given, here = ("without one", "with one") if task is None else ("with one", "without one")
            raise ConfigError(
                f"the classes {classes} come {given}, but those in the memory {here}, of task labels; use a memory "
                "for streams of one kind"
            )
        if task is None:
            return {}
        for label in classes:
            if self.tasks.get(label, task) != task:
                raise ConfigError(
                    f"class {label} comes with the task label {task}, but is in the memory with {self.tasks[label]}; "
                    "give each class of the stream its own id, and one task"
                )
        return self.tasks | dict.fromkeys(classes, task)

    def _parts(self) -> list[Provenance]:
        merged: list[Mapping[str, Any]] = [] if self._held is None else self._held.provenance.config["merged"]
        return [Provenance(**part) for part in merged]

    def _bytes_each(self, images: SyntheticSet) -> int:
        """Bytes of one of ``images``, with its logits."""
        kept = logit_bytes(images.factor**2, len(images.class_names)) if self.keep_logits else 0
        return images.images[0].numel() * images.images.element_size() + kept

    def _joined_logits(self, rows: torch.Tensor, labels: torch.Tensor, new: SyntheticSet) -> torch.Tensor:
        """The logits at ``rows``, of images with ``labels``, and none for the ``new`` images, in the order of both in turns."""
        if not self.keep_logits:
            return self._logits
        none = empty_logits(len(new), new.factor**2, len(new.class_names))
        kept = widened(self._logits[rows], none.shape[2]) if len(rows) else none[:0]
        parts = [labels, new.labels]
        return torch.cat([kept, none])[class_major(parts)[turns(parts)]]

    def _within(
        self,
        budget: Budget,
        joined: SyntheticSet,
        logits: torch.Tensor,
        *,
        parts: list[Provenance],
        sightings: Mapping[int, int],
        tasks: Mapping[int, int],
    ) -> tuple[SyntheticSet, torch.Tensor]:
        """The part of ``joined`` and of its ``logits`` that ``budget`` allows, with the state for its file."""
        shares = budget.shares(joined.classes, self._bytes_each(joined))
        state = {
            "version": _VERSION,
            "budget": asdict(budget),
            "sightings": _as_json(sightings),
            "tasks": _as_json(tasks),
        }
        merged = merged_provenance(parts)
        kept = replace(first_images(joined, shares), provenance=replace(merged, config={_KEY: state, **merged.config}))
        return kept, logits[first_rows(joined.labels, shares)] if self.keep_logits else logits


def _alike(held: SyntheticSet, new: SyntheticSet) -> tuple[SyntheticSet, SyntheticSet]:
    """Both with the class names of the one that has more. Raises ConfigError if they do not fit together."""
    mine, theirs = held.preprocessing.image_shape, new.preprocessing.image_shape
    if mine != theirs:
        raise ConfigError(f"the memory's images are {mine}, those of the set to add {theirs}; make both of one size")
    names = max(held.class_names, new.class_names, key=len)
    if all(names[: len(each.class_names)] == each.class_names for each in (held, new)):
        return replace(held, class_names=names), replace(new, class_names=names)
    return held, new


def _as_json(by_class: Mapping[int, int]) -> dict[str, int]:
    return {str(label): value for label, value in by_class.items()}

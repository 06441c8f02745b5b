"""The replay memory: some images per class, added class by class during a stream, within a budget."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from atom_plugin import store
from atom_plugin.errors import ConfigError, StoreError, require
from atom_plugin.store.concatenation import concatenate
from atom_plugin.store.provenance import Provenance, merged_provenance
from atom_plugin.store.synthetic_set import STORAGE_TYPES, SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing

_KEY = "replay_memory"
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The limits of a memory: images per class, images in total, bytes of pixels in total; all given limits apply.

    ``ipc`` limits each class, for any number of classes. ``max_images`` and ``max_bytes`` are divided equally among the classes
    in the memory, so each class's share shrinks as classes are added, or among ``classes`` if their number is known beforehand:
    then the share is constant. The remainder goes to the lowest class ids, an image each. Bytes are of the stored pixels and
    soft labels; shared data (the preprocessing) is not counted. Raises ConfigError unless at least one of the three is given,
    and all are at least 1.
    """

    ipc: int | None = None
    max_images: int | None = None
    max_bytes: int | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in asdict(self).items() if value is not None}
        if not given.keys() - {"classes"}:
            raise ConfigError("a memory's budget is missing; give ipc (images per class), max_images or max_bytes")
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"a memory's {name} must be a whole number of at least 1, not {value!r}")

    def shares(self, classes: Iterable[int], image_bytes: int) -> dict[int, int]:
        """Images that each of the ``classes`` may have. Raises ConfigError if there is no room for one of each."""
        labels = sorted(set(classes))
        shared_by = max(len(labels), self.classes or 0)
        bounds = {
            "ipc": self.ipc and self.ipc * shared_by,
            "max_images": self.max_images,
            "max_bytes": self.max_bytes and self.max_bytes // image_bytes,
        }
        name, most = min(
            ((name, most) for name, most in bounds.items() if most is not None), key=lambda bound: bound[1]
        )
        share, rest = divmod(most, shared_by)
        if share < 1:
            need = shared_by * (image_bytes if name == "max_bytes" else 1)
            raise ConfigError(
                f"a memory of {name} {getattr(self, name)} has no room for one image of each of {shared_by} classes; "
                f"give it {need} or more"
            )
        # Announced classes have their places from the start: by id, so that shares stay as the others come.
        places = labels if shared_by == self.classes else range(len(labels))
        return {label: share + (place < rest) for label, place in zip(labels, places, strict=True)}


class ReplayMemory:
    """Synthetic (or selected real) images of the classes seen so far, all with one preprocessing, within a :class:`Budget`.

    The images are one :class:`SyntheticSet`, class-major, and are saved as an ordinary set's file: `store info`, evaluation and
    export work on a memory as on any set. A class that must shrink keeps its first images, which for herding are the best ones;
    the images of a class that was seen several times alternate, so that each time keeps its part. After an error the memory is
    unchanged.
    """

    def __init__(self, budget: Budget) -> None:
        require("budget", budget, Budget)
        self.budget = budget
        self._held: SyntheticSet | None = None
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
        return 0 if self._held is None else self._held.nbytes

    def room_for(
        self, classes: Iterable[int], image_shape: tuple[int, int, int], storage: str = "float32"
    ) -> dict[int, int]:
        """Images that each of ``classes`` could have if added now, stored as ``storage``.

        Raises ConfigError if there is no room for one of each.
        """
        classes = set(classes)
        image_bytes = math.prod(image_shape) * STORAGE_TYPES[storage].itemsize
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
        room = self.room_for([*held.classes, *new.classes], new.preprocessing.image_shape, new.storage)
        had = Counter(held.labels.tolist())
        kept_new = first_images(
            new,
            {label: max(1, room[label] // sightings[label], room[label] - had[label]) for label in new.classes},
        )
        arriving = Counter(kept_new.labels.tolist())
        kept = first_images(held, {label: max(0, room[label] - arriving[label]) for label in held.classes})
        joined = in_turns([kept, kept_new], names=["the memory", "the set to add to it"])
        self._held = self._within(self.budget, joined, [*self._parts(), new.provenance], sightings, tasks)
        self._sightings, self.tasks = sightings, tasks

    def resize(self, budget: Budget) -> None:
        """Set another budget; classes that have more than their share keep their first images.

        Raises ConfigError if there is no room for one image of each class.
        """
        if self._held is not None:
            self._held = self._within(budget, self._held, self._parts(), self._sightings, self.tasks)
        self.budget = budget

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write to one HDF5 file, atomically: an ordinary set whose provenance has the memory's state as well."""
        store.write(self.images, path, force=force)

    @classmethod
    def load(cls, path: str | Path) -> ReplayMemory:
        """Read a file of :meth:`save`. Raises StoreError for another file, including a set that is not a memory."""
        held = store.read(path)
        state = held.provenance.config.get(_KEY)
        if not isinstance(state, dict):
            raise StoreError(f"{path}: is a synthetic set but not a saved replay memory; add it to one instead")
        if state.get("version") != _VERSION:
            raise StoreError(
                f"{path}: is a replay memory of version {state.get('version')!r}, expected {_VERSION}; update"
            )
        try:
            memory = cls(Budget(**state["budget"]))
            memory._sightings = {int(label): int(count) for label, count in state["sightings"].items()}
            memory.tasks = {int(label): int(task) for label, task in state["tasks"].items()}
            memory._held = held
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

    def _within(
        self,
        budget: Budget,
        joined: SyntheticSet,
        parts: list[Provenance],
        sightings: Mapping[int, int],
        tasks: Mapping[int, int],
    ) -> SyntheticSet:
        """The part of ``joined`` that ``budget`` allows, with the state for its file."""
        kept = first_images(joined, budget.shares(joined.classes, joined.nbytes // len(joined)))
        state = {
            "version": _VERSION,
            "budget": asdict(budget),
            "sightings": _as_json(sightings),
            "tasks": _as_json(tasks),
        }
        merged = merged_provenance(parts)
        return replace(kept, provenance=replace(merged, config={_KEY: state, **merged.config}))


def first_images(images: SyntheticSet, most: Mapping[int, int]) -> SyntheticSet:
    """The first ``most[label]`` images of each class, class-major, for any order before."""
    members = [(images.labels == label).nonzero().flatten()[: most[label]] for label in images.classes]
    chosen = torch.cat(members) if members else torch.zeros(0, dtype=torch.int64)
    counts = [min(most[label], len(part)) for label, part in zip(images.classes, members, strict=True)]
    kept = tuple(count for count in images.prefixes if count <= min(counts, default=0))
    return replace(images.at(chosen), prefixes=kept)


def _alike(held: SyntheticSet, new: SyntheticSet) -> tuple[SyntheticSet, SyntheticSet]:
    """Both with the class names of the one that has more. Raises ConfigError if they do not fit together."""
    mine, theirs = held.preprocessing.image_shape, new.preprocessing.image_shape
    if mine != theirs:
        raise ConfigError(f"the memory's images are {mine}, those of the set to add {theirs}; make both of one size")
    names = max(held.class_names, new.class_names, key=len)
    if all(names[: len(each.class_names)] == each.class_names for each in (held, new)):
        return replace(held, class_names=names), replace(new, class_names=names)
    return held, new


def in_turns(parts: Sequence[SyntheticSet], *, names: Sequence[str] | None = None) -> SyntheticSet:
    """All images, class-major; within a class the parts are interleaved evenly, each in its own order.

    Raises ConfigError as :func:`~atom_plugin.store.concatenation.concatenate`, which gets ``names``.
    """
    joined = concatenate(parts, names=names)
    counts = [Counter(part.labels.tolist()) for part in parts]
    order, start = [], 0
    for label in joined.classes:
        places = torch.cat([(torch.arange(count[label]) + 0.5) / max(1, count[label]) for count in counts])
        order.append(start + places.argsort(stable=True))
        start += len(places)
    return joined.at(torch.cat(order))


def _as_json(by_class: Mapping[int, int]) -> dict[str, int]:
    return {str(label): value for label, value in by_class.items()}

"""What fills a replay memory when new classes arrive: sets made before, distillation, or selection of real images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch

from atom_plugin.datasets import SourceData, Split
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.loop import Progress, distill
from atom_plugin.distillation.select_config import SelectConfig
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.distillation.set_config import METHODS
from atom_plugin.errors import ConfigError, SourceError, shape_text, unknown
from atom_plugin.replay.memory import first_images
from atom_plugin.store.synthetic_set import SyntheticSet, concatenate
from atom_plugin.transforms.preprocessing import Preprocessing


class Supplier(Protocol):
    """Gives a memory its images of new classes."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What the images come in, where that is known before the stream is."""

    @property
    def needs_images(self) -> bool:
        """Whether :meth:`supply` looks at the real images; if not, it is given none."""
        ...

    def supply(
        self, data: SourceData | None, classes: Sequence[int], *, ipc: int, preprocessing: Preprocessing | None
    ) -> SyntheticSet:
        """At most ``ipc`` images of each of ``classes``, with the labels and class names of ``data``.

        ``data`` holds the real images of (at least) these classes. ``preprocessing`` None: the supplier decides, from
        these images alone, as a stream whose later classes are not known yet must.
        """


class PrecomputedSupplier:
    """Sets made before the stream: one of all classes, or one for every experience.

    Raises ConfigError where the sets differ in class names or preprocessing.
    """

    needs_images = False

    def __init__(self, sets: Sequence[SyntheticSet]) -> None:
        if not sets:
            raise ConfigError("found no set to fill the replay memory from, expected at least one")
        first = sets[0]
        for number, other in enumerate(sets[1:], start=2):
            if other.class_names != first.class_names:
                raise ConfigError(
                    f"set 1 and set {number} of the replay memory differ in their class names "
                    f"({', '.join(first.class_names)} against {', '.join(other.class_names)}); make all of one source"
                )
            if not other.preprocessing.matches(first.preprocessing):
                raise ConfigError(
                    f"set 1 and set {number} of the replay memory differ in their preprocessing "
                    f"({_described(first.preprocessing)} against {_described(other.preprocessing)}); make all with one "
                    "(--preprocessing-of)"
                )
        self.sets = tuple(sets)
        self.preprocessing: Preprocessing | None = first.preprocessing

    def supply(
        self, data: SourceData | None, classes: Sequence[int], *, ipc: int, preprocessing: Preprocessing | None
    ) -> SyntheticSet:
        """The first ``ipc`` images of each class, from the first set that holds all of ``classes``.

        Raises ConfigError where no set does, or the preprocessing asked for is another.
        """
        found = next((held for held in self.sets if set(classes) <= set(held.classes)), None)
        if found is None:
            held = ", ".join(str(item.classes) for item in self.sets)
            raise ConfigError(
                f"no set holds the classes {sorted(classes)} that arrive together (the sets hold {held}); give one set of all "
                "classes, or one for every experience"
            )
        if preprocessing is not None and not found.preprocessing.matches(preprocessing):
            raise ConfigError(
                f"the set's preprocessing is {_described(found.preprocessing)}, the stream's {_described(preprocessing)}; "
                "give both the same"
            )
        return first_images(found.subset(classes), dict.fromkeys(classes, ipc))


@dataclass(frozen=True, kw_only=True)
class DistillingSupplier:
    """Distils the classes that arrive together from their own real images.

    ``recipe`` and ``overrides`` are those of :meth:`DistillConfig.from_recipe`; the ipc is what the memory has room for.
    """

    recipe: str = "atom"
    overrides: dict[str, Any] = field(default_factory=dict)
    device: str = "auto"
    on_progress: Callable[[Progress], None] | None = None
    preprocessing: Preprocessing | None = None
    needs_images = True

    def supply(
        self, data: SourceData | None, classes: Sequence[int], *, ipc: int, preprocessing: Preprocessing | None
    ) -> SyntheticSet:
        """``ipc`` images of each class. Raises what :func:`~atom_plugin.distillation.loop.distill` raises."""
        arrived = only_classes(data, classes)
        overrides = {**self.overrides, "ipc": ipc, "image_shape": arrived.image_shape}
        config = DistillConfig.from_recipe(self.recipe, **overrides)
        prepared = preprocessing or self.preprocessing or config.fit_preprocessing(arrived)
        made = distill(config, arrived, device=self.device, preprocessing=prepared, on_progress=self.on_progress)
        return _with_class_ids(made, data, classes)


@dataclass(frozen=True, kw_only=True)
class SelectingSupplier:
    """Chooses real images of the classes that arrive, as they are: the baseline. A class that has too few gives all."""

    method: str = "random"
    seed: int = 0
    recipe: str = "atom"
    overrides: dict[str, Any] = field(default_factory=dict)
    device: str = "auto"
    preprocessing: Preprocessing | None = None
    needs_images = True

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(unknown("selection method", self.method, METHODS))

    def supply(
        self, data: SourceData | None, classes: Sequence[int], *, ipc: int, preprocessing: Preprocessing | None
    ) -> SyntheticSet:
        """Raises ConfigError for options that do not fit."""
        arrived = only_classes(data, classes)
        config = self._config(arrived, ipc)
        prepared = preprocessing or self.preprocessing or config.fit_preprocessing(arrived)
        counts = [min(ipc, count) for count in arrived.train.labels.bincount().tolist()]
        chosen = []
        for count in sorted(set(counts), reverse=True):  # one in all but odd cases: classes with fewer images than ipc
            alike = [label for label, of_class in zip(sorted(set(classes)), counts, strict=True) if of_class == count]
            some = only_classes(data, alike)
            made = selected_set(self._config(some, count), some, preprocessing=prepared, device=self.device)
            chosen.append(_with_class_ids(made, data, alike))
        return chosen[0] if len(chosen) == 1 else concatenate(chosen)

    def _config(self, data: SourceData, ipc: int) -> SelectConfig:
        overrides = {**self.overrides, "ipc": ipc, "seed": self.seed, "method": self.method}
        return SelectConfig.from_recipe(self.recipe, **{**overrides, "image_shape": data.image_shape})


def only_classes(data: SourceData | None, classes: Sequence[int]) -> SourceData:
    """``data`` with nothing but ``classes``, numbered 0, 1, … in ascending order of their ids.

    Raises SourceError where a class has no training image.
    """
    if data is None:
        raise ConfigError("this way of filling a replay memory needs the real images; give their source")
    wanted = torch.tensor(sorted(set(classes)))
    absent = sorted(set(wanted.tolist()) - set(data.train.labels.unique().tolist()))
    if absent:
        raise SourceError(f"{data.name}: has no training images of the classes {absent}")
    train = _renumbered(data.train, wanted)
    # Nobody tests here, and a stream may have nothing to test on: the training images stand in.
    test = _renumbered(data.test, wanted) if torch.isin(data.test.labels, wanted).any() else train
    names = tuple(data.class_names[label] for label in wanted.tolist())
    return replace(data, train=train, test=test, validation=None, class_names=names)


def _renumbered(split: Split, wanted: torch.Tensor) -> Split:
    keep = torch.isin(split.labels, wanted).nonzero().flatten()
    return Split(images=split.rows(keep), labels=torch.searchsorted(wanted, split.labels[keep]))


def _described(preprocessing: Preprocessing) -> str:
    return f"{preprocessing.describe()}, {shape_text(preprocessing.image_shape)}"


def _with_class_ids(made: SyntheticSet, data: SourceData | None, classes: Sequence[int]) -> SyntheticSet:
    assert data is not None
    return replace(made, labels=torch.tensor(sorted(set(classes)))[made.labels], class_names=data.class_names)

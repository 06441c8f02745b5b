"""Suppliers fill a replay memory when new classes arrive: from sets, by distillation, or by selection of real images."""

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
from atom_plugin.errors import ConfigError, SourceError, require, require_methods, shape_text, unknown
from atom_plugin.replay.arrangement import first_images, in_turns
from atom_plugin.store.concatenation import concatenate
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing


class Supplier(Protocol):
    """Gives a memory its images of new classes."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """The preprocessing of the images, if it is known before the stream."""

    @property
    def needs_images(self) -> bool:
        """Whether :meth:`supply` uses the real images; if not, it gets none."""
        ...

    def storage(self, image_shape: tuple[int, int, int]) -> str:
        """How images (C, H, W) will be stored, for a budget in bytes."""
        ...

    def tiles(self, image_shape: tuple[int, int, int]) -> int:
        """How many images networks will see of a stored image (C, H, W), for the bytes of their logits."""
        ...

    def supply(
        self, data: SourceData | None, classes: Sequence[int], *, ipc: int, preprocessing: Preprocessing | None
    ) -> SyntheticSet:
        """At most ``ipc`` images of each of ``classes``, with the labels and class names of ``data``.

        ``data`` has the real images of (at least) these classes. ``preprocessing`` None: the supplier decides, only from these
        images, since the stream's later classes are not known yet.
        """


class PrecomputedSupplier:
    """Sets made before the stream: one of all classes, or one for every experience.

    Raises ConfigError for anything but a list of sets, and for sets that differ in class names or preprocessing.
    """

    needs_images = False

    def __init__(self, sets: Sequence[SyntheticSet]) -> None:
        require("sets", sets, list | tuple)
        for number, each in enumerate(sets):
            require(f"sets[{number}]", each, SyntheticSet)
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

    def storage(self, image_shape: tuple[int, int, int]) -> str:
        """The storage of the first set."""
        return self.sets[0].storage

    def tiles(self, image_shape: tuple[int, int, int]) -> int:
        """The tiles of the first set's images."""
        return self.sets[0].factor ** 2

    def supply(
        self, data: SourceData | None, classes: Sequence[int], *, ipc: int, preprocessing: Preprocessing | None
    ) -> SyntheticSet:
        """The first ``ipc`` images of each class, from the first set that has all of ``classes``.

        Raises ConfigError if no set does, or if another preprocessing is requested.
        """
        found = next((held for held in self.sets if set(classes) <= set(held.classes)), None)
        if found is None:
            held = ", ".join(str(item.classes) for item in self.sets)
            raise ConfigError(
                f"no set has the classes {sorted(classes)} that arrive together (the sets have {held}); give one set "
                "of all classes, or one for every experience"
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

    ``recipe`` and ``overrides`` are as in :meth:`DistillConfig.from_recipe`; the ipc is what the memory has room for. Images
    are stored as uint8 pixels unless ``overrides`` change it. If the stream's images are whitened, a factor that comes only
    from the recipe is set to 1, because tiles cannot be whitened.
    """

    recipe: str = "best"
    overrides: dict[str, Any] = field(default_factory=dict)
    device: str = "auto"
    on_progress: Callable[[Progress], None] | None = None
    preprocessing: Preprocessing | None = None
    needs_images = True

    def supply(
        self, data: SourceData | None, classes: Sequence[int], *, ipc: int, preprocessing: Preprocessing | None
    ) -> SyntheticSet:
        """``ipc`` images of each class. Raises the errors of :func:`~atom_plugin.distillation.loop.distill`."""
        arrived = only_classes(data, classes)
        known = preprocessing or self.preprocessing
        config = self._config(arrived.image_shape, ipc, known)
        prepared = known or config.fit_preprocessing(arrived)
        made = distill(config, arrived, device=self.device, preprocessing=prepared, on_progress=self.on_progress)
        return _with_class_ids(made, data, classes)

    def storage(self, image_shape: tuple[int, int, int]) -> str:
        """The storage of the configuration."""
        return self._config(image_shape, 1, None).storage

    def tiles(self, image_shape: tuple[int, int, int]) -> int:
        """The tiles of the configuration; images that turn out to be whitened have one."""
        return self._config(image_shape, 1, self.preprocessing).tiles

    def _config(self, image_shape: tuple[int, int, int], ipc: int, known: Preprocessing | None) -> DistillConfig:
        whitened = known is not None and known.whitening is not None
        implied = {"storage": "uint8", **({"factor": 1} if whitened else {})}
        overrides = {**implied, **self.overrides, "ipc": ipc, "image_shape": image_shape}
        return DistillConfig.from_recipe(self.recipe, **overrides)


@dataclass(frozen=True, kw_only=True)
class SelectingSupplier:
    """Selects real images of the classes that arrive: the baseline. A class with too few images gives all of them.

    Images are stored as uint8 pixels unless ``overrides`` change it. If ``overrides`` has a ``factor``, each stored image packs
    factor^2 of them.
    """

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
        config = self._config(arrived.image_shape, ipc)
        prepared = preprocessing or self.preprocessing or config.fit_preprocessing(arrived)
        counts = [min(ipc, count // config.tiles) for count in arrived.train.labels.bincount().tolist()]
        chosen = []
        for count in sorted(set(counts), reverse=True):  # several only if classes have fewer images than ipc
            alike = [label for label, of_class in zip(sorted(set(classes)), counts, strict=True) if of_class == count]
            some = only_classes(data, alike)
            made = selected_set(self._config(some.image_shape, count), some, preprocessing=prepared, device=self.device)
            chosen.append(_with_class_ids(made, data, alike))
        return chosen[0] if len(chosen) == 1 else concatenate(chosen)

    def storage(self, image_shape: tuple[int, int, int]) -> str:
        """The storage of the configuration."""
        return self._config(image_shape, 1).storage

    def tiles(self, image_shape: tuple[int, int, int]) -> int:
        """The tiles of the configuration."""
        return self._config(image_shape, 1).tiles

    def _config(self, image_shape: tuple[int, int, int], ipc: int) -> SelectConfig:
        fixed = {"ipc": ipc, "seed": self.seed, "method": self.method, "image_shape": image_shape}
        return SelectConfig.from_recipe(self.recipe, **{"storage": "uint8", **self.overrides, **fixed})


@dataclass(frozen=True)
class MixedSupplier:
    """Several suppliers that give equal parts of a class's images, e.g. raw exemplars and synthetic images.

    The images of the suppliers alternate, so that a shrinking memory keeps the mixture. If the images of a class do not divide
    evenly, the first suppliers give one more. Raises ConfigError for anything but suppliers, and for fewer than two.
    """

    suppliers: Sequence[Supplier]

    def __post_init__(self) -> None:
        for number, each in enumerate(self.suppliers):
            require_supplier(each, f"suppliers[{number}]")
        if len(self.suppliers) < 2:
            raise ConfigError(f"found {len(self.suppliers)} supplier(s) of a mixed memory, expected two or more")

    @property
    def preprocessing(self) -> Preprocessing | None:
        """The preprocessing of the first supplier that knows its own."""
        return next((each.preprocessing for each in self.suppliers if each.preprocessing is not None), None)

    @property
    def needs_images(self) -> bool:
        """Whether any of the suppliers uses them."""
        return any(each.needs_images for each in self.suppliers)

    def storage(self, image_shape: tuple[int, int, int]) -> str:
        """The storage of the first supplier; all must store in the same way."""
        return self.suppliers[0].storage(image_shape)

    def tiles(self, image_shape: tuple[int, int, int]) -> int:
        """The tiles of the first supplier's images."""
        return self.suppliers[0].tiles(image_shape)

    def supply(
        self, data: SourceData | None, classes: Sequence[int], *, ipc: int, preprocessing: Preprocessing | None
    ) -> SyntheticSet:
        """Raises the suppliers' errors, and ConfigError if they store images in different ways."""
        share, rest = divmod(ipc, len(self.suppliers))
        parts = [
            each.supply(data, classes, ipc=share + (number < rest), preprocessing=preprocessing)
            for number, each in enumerate(self.suppliers)
            if share + (number < rest)
        ]
        return in_turns(parts)


def require_supplier(supplier: object, name: str = "supplier") -> None:
    """Raise ConfigError unless ``supplier``, an argument called ``name``, can fill a memory."""
    methods = ("supply", "storage", "tiles", "needs_images", "preprocessing")
    require_methods(name, supplier, *methods, such_as='DistillingSupplier(recipe="atom")')


def only_classes(data: SourceData | None, classes: Sequence[int]) -> SourceData:
    """``data`` with only ``classes``, numbered 0, 1, … in ascending order of their ids.

    Raises SourceError if a class has no training image.
    """
    if data is None:
        raise ConfigError("this way of filling a replay memory needs the real images; give their source")
    wanted = torch.tensor(sorted(set(classes)))
    absent = sorted(set(wanted.tolist()) - set(data.train.labels.unique().tolist()))
    if absent:
        raise SourceError(f"{data.name}: has no training images of the classes {absent}")
    train = _renumbered(data.train, wanted)
    # The test images are not used; if a stream has none of these classes, the training images replace them.
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
    made = made.with_class_labels("a replay memory")
    return replace(made, labels=torch.tensor(sorted(set(classes)))[made.labels], class_names=data.class_names)

"""Extend a set: its images stay, each class gets the images it lacks, and classes that the source has gained are added.

Classes are identified by name. Their ids are the source's, as in every set; a warning says so if these differ from the old
ones. Old and new images are matched together, as one class, with the set's own preprocessing, packing and storage.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from atom_plugin import store
from atom_plugin.datasets import SourceData
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.held_set import form_of
from atom_plugin.errors import ConfigError, listed, shape_text, shown
from atom_plugin.store.synthetic_set import STORAGE_TYPES, SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing, to_uint8

_SPLIT = ("seed", "test_fraction")
_logger = logging.getLogger("atom_plugin")


@dataclass(frozen=True, kw_only=True, eq=False)
class Growth:
    """The set at ``path``, to be extended to ``ipc`` images of each class: ``counts`` are its images of the source's classes.

    ``frozen``: its images do not change.
    """

    path: Path
    held: SyntheticSet
    counts: tuple[int, ...]
    labels: tuple[int, ...]
    """For each class of the source, its id in the set; -1 for a new one."""
    ipc: int
    frozen: bool

    @classmethod
    def of(cls, config: DistillConfig, data: SourceData, preprocessing: Preprocessing | None) -> Growth:
        """The set that ``config`` extends, for the images of ``data``. Raises StoreError for a file that is not a set,
        ConfigError for a set that does not fit the config, the source or a given ``preprocessing``, or that is already
        complete.
        """
        assert config.extend is not None
        path = Path(config.extend)
        held = store.read(path)
        _refuse_other_form(path, held, config, data)
        if preprocessing is not None and not preprocessing.matches(held.preprocessing):
            raise ConfigError(f"{path}: extend keeps the set's own preprocessing, not the given one; leave it out")
        _refuse_other_images(path, held, data)
        labels = _labels(path, held, data.class_names)
        counts = tuple(int((held.labels == label).sum()) for label in labels)
        if max(counts) > config.ipc:
            name = data.class_names[counts.index(max(counts))]
            raise ConfigError(
                f"{path}: has {max(counts)} images of the class {name!r}, more than the {config.ipc} per class asked "
                f"for; give --ipc {max(counts) + 1} or more"
            )
        if min(counts) == config.ipc:
            raise ConfigError(
                f"{path}: has {config.ipc} images of every class already, so nothing is added; give a larger --ipc, "
                f"or start from them with --image-init set:{path}"
            )
        return cls(path=path, held=held, counts=counts, labels=labels, ipc=config.ipc, frozen=not config.thaw)

    def start(self, fresh: torch.Tensor) -> torch.Tensor:
        """The initial images: the set's, then as many of ``fresh`` (K * ipc, C, H, W), class-major, as a class lacks.

        Float32, preprocessed, or in [0, 1] if the set is uint8, as ``fresh``. The last of ``fresh`` are taken, since a run with
        the same options started its first images from the first ones.
        """
        held = self.held
        kept = held.images.float() / 255 if held.storage == "uint8" else held.images.float()
        parts = []
        for label, candidates in zip(self.labels, fresh.unflatten(0, (-1, self.ipc)), strict=True):
            rows = (held.labels == label).nonzero().flatten()
            stored = to_uint8(candidates) if held.storage == "uint8" else candidates.to(STORAGE_TYPES[held.storage])
            known = torch.tensor([bool((held.images[rows] == one).flatten(1).all(1).any()) for one in stored])
            parts += [kept[rows], candidates[known.logical_not().argsort(stable=True)[len(rows) :]]]
        return torch.cat(parts)

    def still(self) -> torch.Tensor | None:
        """Which of the images (K * ipc,) do not change; None if all do."""
        if not self.frozen:
            return None
        return (torch.arange(self.ipc) < torch.tensor(self.counts)[:, None]).flatten()

    def matched(self, weights: Mapping[int, float]) -> dict[int, float]:
        """The ``weights`` of prefixes that contain a changing image; they sum to 1."""
        fixed = min(self.counts) if self.frozen else 0
        moving = {count: weight for count, weight in weights.items() if count > fixed}
        return {count: weight / sum(moving.values()) for count, weight in moving.items()}

    def prefixes(self, config: DistillConfig) -> tuple[int, ...]:
        """The prefixes of the extended set.

        For frozen images these are the set's prefixes and all its images together, since that is the set. Raises ConfigError if
        ``config`` names an impossible count.
        """
        if not self.frozen:
            return config.prefixes
        even = set(self.counts) - {0}
        own = set(self.held.prefixes) | (even if len(even) == 1 else set())
        found = [count for count in range(1, self.ipc + 1) if self._stands_alone(count, config.prefixes, own)]
        idle = sorted(set(config.prefixes) - set(found))
        if idle and config.nested not in ("all", "some"):
            raise ConfigError(
                f"{self.path}: its first {idle[0]} images per class were not optimised to be used alone, and are "
                f"kept fixed; leave {idle[0]} out of nested, or give --thaw"
            )
        return tuple(found) if len(found) > 1 or config.nested else ()

    def _stands_alone(self, count: int, matched: tuple[int, ...], own: set[int]) -> bool:
        return all(count in own if count <= held else count in (*matched, self.ipc) for held in self.counts)


def _refuse_other_form(path: Path, held: SyntheticSet, config: DistillConfig, data: SourceData) -> None:
    if held.soft_labels is not None:
        raise ConfigError(
            f"{path}: has soft labels, which belong to its images, and new images would have none; extend a set "
            "without soft labels, or start from its images with --image-init set:" + str(path)
        )
    if held.preprocessing.image_shape != data.image_shape:
        raise ConfigError(
            f"{path}: has images of {shape_text(held.preprocessing.image_shape)}, expected the source's "
            f"{shape_text(data.image_shape)}; extend another set, or give the source with its --image-size"
        )
    for name, value in form_of(path).items():
        if (given := getattr(config, name)) != value:
            raise ConfigError(
                f"found {name} {shown(given)}, but {path} has {shown(value)}, and an extended set keeps it; leave "
                f"{name} out"
            )


def _refuse_other_images(path: Path, held: SyntheticSet, data: SourceData) -> None:
    """The set's images must not have seen images that are held out here."""
    source = held.provenance.source
    if source.get("fingerprint") == data.fingerprint:
        return
    if data.validation is not None:
        raise ConfigError(
            f"{path}: was made from other training images than --validation leaves; extend a set made with the same "
            "--validation"
        )
    options = source.get("options", {})
    for name in _SPLIT:
        if name in options and name in data.options and options[name] != data.options[name]:
            raise ConfigError(
                f"{path}: was made with another split into training and test images ({name} {options[name]}, not "
                f"{data.options[name]}); give the same, so that test images stay unseen"
            )


def _labels(path: Path, held: SyntheticSet, class_names: Sequence[str]) -> tuple[int, ...]:
    """For each class of the source, its id in the set; -1 if the set lacks it."""
    theirs = held.class_names
    if len(set(theirs)) < len(theirs) or len(set(class_names)) < len(class_names):
        raise ConfigError(f"{path}: two classes have the same name, so names do not identify them; rename one")
    lost = [theirs[label] for label in held.classes if theirs[label] not in class_names]
    if lost:
        raise ConfigError(
            f"{path}: has images of the class {lost[0]!r}, which the source does not have ({listed(class_names)}); "
            "leave it out with  atom-cli store subset --classes"
        )
    moved = [theirs[label] for label in held.classes if class_names.index(theirs[label]) != label]
    if moved:
        _logger.warning(
            "class ids follow the source: %r is %d here, and was %d in %s (%d classes have another id)",
            *(moved[0], class_names.index(moved[0]), theirs.index(moved[0]), path, len(moved)),
        )
    return tuple(theirs.index(name) if name in theirs else -1 for name in class_names)

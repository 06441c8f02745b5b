"""The synthetic set: a few images per class, with their preprocessing and provenance."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from atom_plugin.errors import ConfigError, listed, require, unknown
from atom_plugin.runtime.endings import refuse_other_ending
from atom_plugin.runtime.text import require_text
from atom_plugin.store.batches import batches_of, own_strategy
from atom_plugin.store.codec import SetFields
from atom_plugin.store.files import read_fields, write_fields
from atom_plugin.store.provenance import Provenance
from atom_plugin.store.soft_labels import SoftLabels
from atom_plugin.store.torch_dataset import HeldImages, Item, LabelledImages
from atom_plugin.transforms.packing import check_packing, decode, unpack
from atom_plugin.transforms.preprocessing import Preprocessing, to_uint8

_logger = logging.getLogger("atom_plugin")

# How images may be stored: preprocessed as float32 or float16, or as pixels of 256 levels before preprocessing.
STORAGE_TYPES = {"float32": torch.float32, "float16": torch.float16, "uint8": torch.uint8}


@dataclass(frozen=True, kw_only=True, eq=False)
class SyntheticSet:
    """Stored synthetic images with their labels; :meth:`decoded` returns the images as networks see them.

    ``images`` (N, C, H, W) are float32 or float16, preprocessed, or uint8 pixels that are not; ``labels`` int64 (N,), class ids
    of the source, class-major; ``class_names[id]`` names every class of the source, also classes that a subset no longer has.
    With ``factor`` above 1, each stored image has factor x factor tiles (:mod:`atom_plugin.transforms.packing`). ``prefixes``
    are the ascending counts K for which the first K images of each class also form a good set. ``soft_labels`` are what
    networks learn in place of ``labels``, whose class need not be their largest value; ``learned_lr`` is the learning rate that
    a method learned for training on the set. Raises ConfigError for fields that do not fit together.
    """

    images: torch.Tensor
    labels: torch.Tensor
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    provenance: Provenance
    factor: int = 1
    prefixes: tuple[int, ...] = ()
    soft_labels: SoftLabels | None = None
    learned_lr: float | None = None

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        kinds = {"images": torch.Tensor, "labels": torch.Tensor, "class_names": tuple, "factor": int}
        for name, kind in {**kinds, "preprocessing": Preprocessing, "provenance": Provenance}.items():
            require(name, getattr(self, name), kind)
        for label, name in enumerate(self.class_names):
            require_text(f"the name of class {label}", name)
        for tensor in (images, labels):
            if tensor.layout != torch.strided or tensor.is_meta:
                raise ConfigError(
                    f"images and labels must be dense tensors in memory, not {tensor.layout} on {tensor.device}; "
                    "load them"
                )
        if images.ndim != 4 or images.dtype not in STORAGE_TYPES.values():
            raise ConfigError(
                f"images must be {' or '.join(STORAGE_TYPES)} (N, C, H, W), not {images.dtype} {tuple(images.shape)}"
            )
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ConfigError(f"labels must be int64 ({len(images)},), not {labels.dtype} {tuple(labels.shape)}")
        if tuple(images.shape[1:]) != self.preprocessing.image_shape:
            raise ConfigError(
                f"images of shape {tuple(images.shape[1:])} do not fit a preprocessing fitted on "
                f"{self.preprocessing.image_shape}"
            )
        if len(labels) and not (0 <= int(labels.min()) and int(labels.max()) < len(self.class_names)):
            raise ConfigError(
                f"labels run from {int(labels.min())} to {int(labels.max())}, but there are "
                f"{len(self.class_names)} class names"
            )
        check_packing(self.factor, self.preprocessing)
        self._check_learned()

    def _check_learned(self) -> None:
        soft, rate = self.soft_labels, self.learned_lr
        if soft is not None:
            require("soft_labels", soft, SoftLabels)
            expected = len(self.labels), len(self.class_names)
            if tuple(soft.values.shape) != expected:
                raise ConfigError(
                    f"found soft labels of shape {tuple(soft.values.shape)}, expected {expected} for {expected[0]} images and "
                    f"{expected[1]} class names; give one row for each image, one value for each class"
                )
        if rate is not None and not (isinstance(rate, float) and 0 < rate < float("inf")):
            raise ConfigError(f"learned_lr must be a number above 0, not {rate!r}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> list[int]:
        """The class ids that have images, sorted."""
        return sorted(set(self.labels.tolist()))

    @property
    def ipc(self) -> int:
        """Images per class: the smallest count over the set's classes."""
        return min(Counter(self.labels.tolist()).values(), default=0)

    @property
    def storage(self) -> str:
        """Number format of the stored images: a key of :data:`STORAGE_TYPES`."""
        return str(self.images.dtype).removeprefix("torch.")

    @property
    def decoded_count(self) -> int:
        """Number of images that networks see: those of :meth:`decoded`."""
        return len(self) * self.factor**2

    @property
    def decoded_labels(self) -> torch.Tensor:
        """The class ids of the images of :meth:`decoded`, int64, without decoding them."""
        return self.labels.repeat_interleave(self.factor**2)

    @property
    def image_bytes(self) -> int:
        """Bytes that the images take in a file."""
        return self.images.numel() * self.images.element_size()

    @property
    def soft_label_bytes(self) -> int:
        """Bytes that the soft labels take in a file."""
        return 0 if self.soft_labels is None else self.soft_labels.nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of images and soft labels: what budgets and comparisons count."""
        return self.image_bytes + self.soft_label_bytes

    def targets(self, temperature: float = 1.0) -> torch.Tensor:
        """The training targets of each stored image, float32 (N, classes): as :meth:`SoftLabels.targets`; without soft labels 1
        for its class and 0 for the others, whatever the temperature.
        """
        if self.soft_labels is not None:
            return self.soft_labels.targets(temperature)
        return torch.nn.functional.one_hot(self.labels.cpu(), len(self.class_names)).float()

    def with_class_labels(self, user: str) -> SyntheticSet:
        """The set without soft labels; logs a warning that ``user``, e.g. "a replay memory", does not use them."""
        if self.soft_labels is None:
            return self
        _logger.warning("soft labels are not used: %s takes the class of each image", user)
        return replace(self, soft_labels=None)

    def decoded(self) -> SyntheticSet:
        """The set with every image as networks see it: float32, preprocessed, each tile of a packed image as one image."""
        if self.storage == "float32" and self.factor == 1:
            return self
        images, tiles = decode(self.images, self.preprocessing, self.factor), self.factor**2
        soft = None if self.soft_labels is None else self.soft_labels.repeated(tiles)
        return replace(self, images=images, labels=self.decoded_labels, soft_labels=soft, factor=1, prefixes=())

    def stored_as(self, storage: str) -> SyntheticSet:
        """The set in another ``storage``; as uint8 the images are clamped to [0, 1] and rounded to 256 levels.

        Raises ConfigError for a name that is not in :data:`STORAGE_TYPES`.
        """
        if storage not in STORAGE_TYPES:
            raise ConfigError(unknown("storage", storage, STORAGE_TYPES))
        if storage == self.storage:
            return self
        if storage == "uint8":
            images = to_uint8(self.preprocessing.inverse(self.images.float()))
        else:
            preprocessed = self.preprocessing.forward(self.images) if self.storage == "uint8" else self.images
            images = preprocessed.to(STORAGE_TYPES[storage])
        return replace(self, images=images)

    def true_colour(self) -> torch.Tensor:
        """The decoded images with the preprocessing undone, float32 (n, C, H, W), not clamped to [0, 1]."""
        return unpack(self.as_stored(), self.factor)

    def as_stored(self, rows: Sequence[int] | slice = slice(None)) -> torch.Tensor:
        """As :meth:`true_colour`, with packed images left packed: those at ``rows``, float32 (n, C, H, W)."""
        images = self.images[rows]
        return images.float() / 255 if self.storage == "uint8" else self.preprocessing.inverse(images.float())

    def at(self, rows: torch.Tensor | slice) -> SyntheticSet:
        """The stored images at ``rows``, with their labels; everything else stays, including ``prefixes``."""
        soft = None if self.soft_labels is None else self.soft_labels.at(rows)
        return replace(self, images=self.images[rows], labels=self.labels[rows], soft_labels=soft)

    def subset(self, classes: Sequence[int]) -> SyntheticSet:
        """Only the images of the given class ids, class by class in their order; labels keep their ids.

        Raises ConfigError for an absent class, or one that is given twice.
        """
        if len(set(classes)) < len(classes):
            raise ConfigError(f"classes must differ, not {listed(classes)}")
        absent = sorted(set(classes) - set(self.classes))
        if absent:
            raise ConfigError(f"the set has no images of class {absent}; it has {self.classes}")
        kept = torch.cat([(self.labels == label).nonzero().flatten() for label in classes] or [self.labels[:0]])
        return self.at(kept)

    def first(self, ipc: int) -> SyntheticSet:
        """The first ``ipc`` stored images of each class. Raises ConfigError if a class has fewer."""
        if not 1 <= ipc <= self.ipc:
            raise ConfigError(f"found {self.ipc} images of each class, expected {ipc} or more; cut 1 to {self.ipc}")
        in_order = self.labels.unique_consecutive().tolist()
        rows = torch.cat([(self.labels == label).nonzero().flatten()[:ipc] for label in dict.fromkeys(in_order)])
        kept = tuple(count for count in self.prefixes if count <= ipc)
        return replace(self.at(rows), prefixes=kept)

    def as_dataset(self) -> LabelledImages:
        """A ``torch.utils.data.Dataset`` over the decoded images, preprocessed."""
        decoded = self.decoded()
        return HeldImages(decoded.labels, decoded.soft_labels, decoded.images)

    def dataloader(
        self, batch_size: int = 64, *, augment: bool = False, shuffle: bool = True, seed: int = 0, soft: bool = False
    ) -> DataLoader[Item]:
        """Batches of decoded, preprocessed images and class ids; ``augment`` applies the augmentation of the set's
        distillation.

        ``soft``: the set's soft labels in the place of class ids. Raises ConfigError if the set has none, if ``augment`` is not
        a bool, and as :func:`~atom_plugin.store.batches.batches_of`.
        """
        require("augment", augment, bool)
        strategy = own_strategy(self.provenance) if augment else "none"
        dataset = self.as_dataset().with_soft_targets() if soft else self.as_dataset()
        return batches_of(dataset, batch_size=batch_size, strategy=strategy, shuffle=shuffle, seed=seed)

    def save(self, path: str | Path, *, force: bool = False, keep_paths: bool = False) -> None:
        """Write to one HDF5 file, atomically. Raises ConfigError for a name such as "a.npz". See :func:`write`."""
        refuse_other_ending(Path(path), "HDF5")
        write(self, path, force=force, keep_paths=keep_paths)

    @classmethod
    def load(cls, path: str | Path) -> SyntheticSet:
        """Read a whole HDF5 set into memory. See :func:`read`."""
        return read(path)


def fields_of(synthetic_set: SyntheticSet) -> SetFields:
    """The set in the form that :mod:`atom_plugin.store.files` takes."""
    return SetFields(
        images=synthetic_set.images,
        labels=synthetic_set.labels,
        class_names=synthetic_set.class_names,
        preprocessing=synthetic_set.preprocessing,
        provenance=synthetic_set.provenance,
        factor=synthetic_set.factor,
        prefixes=synthetic_set.prefixes,
        soft_labels=synthetic_set.soft_labels,
        learned_lr=synthetic_set.learned_lr,
    )


def write(synthetic_set: SyntheticSet, path: str | Path, *, force: bool = False, keep_paths: bool = False) -> None:
    """Write a set to ``path``. See :func:`atom_plugin.store.files.write_fields`."""
    write_fields(fields_of(synthetic_set), path, force=force, keep_paths=keep_paths)


def read(path: str | Path) -> SyntheticSet:
    """Read a whole set, with every check. See :func:`atom_plugin.store.files.read_fields`."""
    return SyntheticSet(**read_fields(path))

"""The images that an audit tests: members, from which a set was made, and non-members of the same source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from atom_plugin.datasets import SourceData, Split
from atom_plugin.datasets.validation import part_of
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.select_config import SelectConfig
from atom_plugin.distillation.selected_set import chosen_pixels
from atom_plugin.distillation.set_config import METHODS
from atom_plugin.errors import ConfigError, SourceError, listed
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.runtime.settings import current_names
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import to_uint8

_PART = 512  # images at a time
_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True, eq=False)
class Examined:
    """The examined images: ``members`` are training images of ``source``, and ``others`` are not.

    ``members`` and ``others`` are int64 rows, of ``source.train`` and of the non-members' split. Both have equally many images
    of each class, so that recognising classes does not help a score. ``reference`` are non-members that are not examined, for
    making shadow sets. No image is in two of the three.
    """

    source: SourceData
    members: torch.Tensor
    others: torch.Tensor
    reference: torch.Tensor

    @property
    def on(self) -> str:
        """The split of the non-members: the source's "validation" part if it has one, else "test"."""
        return "test" if self.source.validation is None else "validation"

    @property
    def outside(self) -> Split:
        """The images that no set was made from."""
        return self.source.validation or self.source.test

    @property
    def shadow_source(self) -> SourceData:
        """The source with the reference images in place of its training images."""
        digest = hashlib.sha256(f"{self.source.fingerprint} shadows {self.reference.tolist()}".encode())
        return SourceData(
            name=self.source.name,
            train=part_of(self.outside, self.reference),
            test=self.source.test,
            class_names=self.source.class_names,
            fingerprint=digest.hexdigest(),
            mean=self.source.mean,
            std=self.source.std,
            options={},
        )


def examine(source: SourceData, *, most: int, halve: bool, seed: int) -> Examined:
    """Draw with ``seed`` at most ``most`` members, and as many non-members, class by class.

    With ``halve`` half of each class's non-members is kept apart for shadow sets. Raises SourceError if a class has too few
    images on either side.
    """
    train, outside = source.train, source.validation or source.test
    classes = len(source.class_names)
    counts = torch.bincount(outside.labels, minlength=classes)
    reference = _drawn(outside.labels, (counts // 2).tolist() if halve else [0] * classes, seed, "reference")
    free = torch.ones(len(outside), dtype=torch.bool)
    free[reference] = False
    left = free.nonzero().flatten()
    members = torch.bincount(train.labels, minlength=classes)
    both = torch.minimum(members, torch.bincount(outside.labels[left], minlength=classes))
    both = both.clamp(max=max(1, most // classes))
    for label, count in enumerate(both.tolist()):
        if not count:
            raise SourceError(
                f"{source.name}: class {source.class_names[label]!r} has too few images outside the set's own to be audited; "
                "add some, or make the set with a larger --validation"
            )
    return Examined(
        source=source,
        members=_drawn(train.labels, both.tolist(), seed, "members"),
        others=left[_drawn(outside.labels[left], both.tolist(), seed, "others")],
        reference=reference,
    )


def check_made_of(name: str, synthetic_set: SyntheticSet, source: SourceData) -> None:
    """Raise ConfigError unless the set called ``name`` has images of all classes, and was made from ``source``.

    The latter is judged by the set's file.
    """
    made_of = synthetic_set.provenance.source.get("fingerprint")
    if made_of is not None and made_of != source.fingerprint:
        raise ConfigError(
            f"{name}: was made from other images than the training images of {source.name!r} (fingerprint "
            f"{source.fingerprint[:12]}, expected {made_of[:12]}); audit sets of one source at a time, without "
            "--dataset"
        )
    absent = [
        source.class_names[label] for label in sorted({*range(len(source.class_names))} - {*synthetic_set.classes})
    ]
    if absent:
        raise ConfigError(f"{name}: has no images of the classes {listed(absent, most=3)}; audit a set of all classes")


def begun_from(synthetic_set: SyntheticSet, source: SourceData) -> torch.Tensor | None:
    """The rows of ``source.train``, int64, that the set's images are, or started from; None if unknown.

    Known if the images are real ones, as stored, or were drawn at random, which can be repeated without a network.
    """
    if (found := _rows_of(to_uint8(synthetic_set.true_colour()), source.train)) is not None:
        return found
    made = synthetic_set.provenance
    told = {"image_init", "method"} & current_names(DistillConfig, made.config).keys()
    if not told or made.source.get("fingerprint") != source.fingerprint:  # of another tool
        return None
    try:
        config = (SelectConfig if made.method in METHODS else DistillConfig).from_json(made.config)
    except ConfigError:  # of a newer release
        return None
    if config.choice != "random" or config.ipc * config.tiles * len(source.class_names) != synthetic_set.decoded_count:
        return None
    drawn = chosen_pixels(config, source, synthetic_set.preprocessing, device=_CPU)
    return _rows_of(drawn, source.train)


def seen_images(split: Split) -> frozenset[bytes]:
    """A digest of each image of ``split``."""
    return frozenset(_digests(split.parts(_PART)))


def among(images: torch.Tensor, seen: frozenset[bytes]) -> torch.Tensor:
    """Which of ``images``, uint8 (n, C, H, W), are among the images of :func:`seen_images`: bool (n,)."""
    return torch.tensor([digest in seen for digest in _digests([images])], dtype=torch.bool)


def _rows_of(pixels: torch.Tensor, split: Split) -> torch.Tensor | None:
    """The rows of ``split`` with exactly these images, uint8 (n, C, H, W); None if one is not there."""
    row_of: dict[bytes, int] = {}
    for row, digest in enumerate(_digests(split.parts(_PART))):
        row_of.setdefault(digest, row)
    rows = [row_of.get(digest) for digest in _digests([pixels])]
    return None if None in rows else torch.tensor(rows)


def _digests(parts: Iterable[torch.Tensor]) -> Iterable[bytes]:
    for part in parts:
        for image in part.contiguous().numpy():
            yield hashlib.sha256(image.tobytes()).digest()


def _drawn(labels: torch.Tensor, counts: Sequence[int], seed: int, purpose: str) -> torch.Tensor:
    """``counts[k]`` rows of each class k: int64, ascending."""
    generator = generator_for(seed, "audit", purpose)
    shuffled = torch.randperm(len(labels), generator=generator)
    rows = [shuffled[labels[shuffled] == label][:count] for label, count in enumerate(counts)]
    return torch.cat(rows).sort().values

"""Labels of other toolkits' files: class ids, or soft labels, whose kind is detected; both are checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.store.formats.context import ImportContext
from atom_plugin.store.formats.tensors import checked_images, load, plain_tensor
from atom_plugin.store.soft_labels import KINDS, SoftLabels

TREATMENTS = ("keep", "argmax", "refuse")


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """``classes`` int64 (N,), the class ids of the file, and the soft labels of the same images, if there are any."""

    classes: torch.Tensor
    soft: SoftLabels | None = None

    def repeated(self, times: int) -> Labels:
        """Each label repeated ``times`` times, for the tiles of an image."""
        soft = None if self.soft is None else self.soft.repeated(times)
        return Labels(classes=self.classes.repeat_interleave(times), soft=soft)


@dataclass(frozen=True, kw_only=True)
class SoftReading:
    """The options of an import for soft labels: ``soft_labels`` is one of :data:`TREATMENTS`.

    ``label_kind`` is one of :data:`~atom_plugin.store.soft_labels.KINDS`; None: probabilities if rows sum to 1, else ``usual``.
    Raises ConfigError for other values.
    """

    soft_labels: str = "keep"
    label_kind: str | None = None
    usual: str = "logits"

    def __post_init__(self) -> None:
        if self.soft_labels not in TREATMENTS:
            raise ConfigError(f"soft_labels must be keep, argmax or refuse, not {self.soft_labels!r}")
        if self.label_kind is not None and self.label_kind not in KINDS:
            raise ConfigError(f"label_kind must be one of {', '.join(KINDS)}, not {self.label_kind!r}")
        if self.label_kind is not None and self.soft_labels != "keep":
            raise ConfigError(f"label_kind has no effect with soft_labels={self.soft_labels}; leave one of them out")


REFUSED = SoftReading(soft_labels="refuse")


def load_pair(
    images: Path, labels: Path, context: ImportContext, *, soft: SoftReading, trust_pickle: bool
) -> tuple[torch.Tensor, Labels]:
    """The two files of a set, each loaded and checked."""
    pixels = checked_images(load(images, context, trust_pickle=trust_pickle), str(images))
    found = load(labels, context, trust_pickle=trust_pickle)
    return pixels, checked_labels(found, len(pixels), str(labels), context, soft=soft)


def checked_pair(value: Any, where: str, context: ImportContext, *, soft: SoftReading) -> tuple[torch.Tensor, Labels]:
    """``value`` as ``[images, labels]``, both checked. Raises StoreError, naming ``where``."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        found = f"{len(value)} items" if isinstance(value, list | tuple) else f"a {type(value).__name__}"
        raise StoreError(f"{where}: found {found}, expected [images, labels]; another format?")
    images = checked_images(value[0], where)
    return images, checked_labels(value[1], len(images), where, context, soft=soft)


def class_by_class(images: int, classes: int, where: str) -> torch.Tensor:
    """Labels of equally many images of each class, in class order. Raises StoreError if the images do not divide evenly."""
    if images % classes:
        raise StoreError(
            f"{where}: has no labels, and {images} images do not divide evenly among {classes} classes; add labels"
        )
    return torch.arange(classes).repeat_interleave(images // classes)


def checked_labels(
    value: Any, count: int, where: str, context: ImportContext, *, soft: SoftReading = REFUSED
) -> Labels:
    """``value`` as ``count`` labels. Raises StoreError, naming ``where``.

    Class ids are whole numbers (possibly stored as floats), or rows with a single 1. ``soft``: the options for soft labels.
    """
    labels = plain_tensor(value, where, "(N,)")
    if labels.ndim == 2 and labels.shape[0] == count and labels.shape[1] > 1 and not labels.is_complex():
        return _of_rows(labels, where, context, soft)
    if labels.shape != (count,):
        raise StoreError(
            f"{where}: found labels of shape {tuple(labels.shape)}, expected ({count},), one for each image"
        )
    if labels.dtype == torch.bool or labels.is_complex():
        raise StoreError(f"{where}: found labels of type {_name(labels)}, expected whole numbers")
    if soft.label_kind is not None:
        raise ConfigError(f"{where}: holds class ids, but label_kind applies only to soft labels; leave it out")
    return Labels(classes=_class_ids(labels, where, context))


def _class_ids(labels: torch.Tensor, where: str, context: ImportContext) -> torch.Tensor:
    stored = _name(labels)
    whole = labels.double().round().to(torch.int64) if labels.is_floating_point() else labels.to(torch.int64)
    if labels.is_floating_point():
        if not torch.equal(whole.double(), labels.double()):
            odd = float(labels.double()[whole != labels.double()][0])
            raise StoreError(f"{where}: found the label {odd}, expected whole numbers; these are not class ids")
        context.note(f"labels stored as {stored} were converted to whole numbers")
    if len(whole) and not 0 <= int(whole.min()) <= int(whole.max()) < 2**31:
        raise StoreError(
            f"{where}: found labels {int(whole.min())} to {int(whole.max())}, expected class ids of 0 or more"
        )
    return whole.contiguous()


def _of_rows(labels: torch.Tensor, where: str, context: ImportContext, reading: SoftReading) -> Labels:
    """The labels from one value for each image and class (N, K)."""
    values, classes = labels.float().contiguous(), labels.shape[1]
    if bool(((values == 0) | (values == 1)).all()) and bool((values.sum(1) == 1).all()):
        context.note(f"labels are class ids, stored as rows of {classes} values with a single 1")
        return Labels(classes=values.argmax(1))
    if reading.soft_labels == "refuse":
        raise StoreError(
            f"{where}: found soft labels {tuple(labels.shape)}, expected class ids; keep them with --option soft_labels=keep, "
            "or take the most likely class with soft_labels=argmax"
        )
    if not bool(torch.isfinite(values).all()):
        raise StoreError(
            f"{where}: found soft labels that are not finite; the training diverged, or the file is damaged"
        )
    if reading.soft_labels == "argmax":
        context.note(f"soft labels over {classes} classes were replaced by the most likely class")
        return Labels(classes=values.argmax(1))
    kind = reading.label_kind or ("probabilities" if _sum_to_one(values) else reading.usual)
    try:
        soft = SoftLabels(values=values, kind=kind)
    except ConfigError as error:
        raise StoreError(f"{where}: {error}") from error
    told = "" if reading.label_kind else ", judged by their values; --option label_kind=… sets another kind"
    context.note(f"soft labels over {classes} classes were kept as {kind}{told}")
    return Labels(classes=_classes(values, context), soft=soft)


def _sum_to_one(values: torch.Tensor) -> bool:
    try:
        SoftLabels(values=values, kind="probabilities")
    except ConfigError:
        return False
    return True


def _classes(values: torch.Tensor, context: ImportContext) -> torch.Tensor:
    """The class of each row's largest value; or the classes by position, in class order, if most rows agree with these.

    A learned label may have its largest value at another class than its image's class.
    """
    largest, (images, classes) = values.argmax(1), values.shape
    if not images or images % classes:
        return largest
    by_place = torch.arange(classes).repeat_interleave(images // classes)
    agreeing = int((largest == by_place).sum())
    if agreeing == images or 2 * agreeing <= images:
        return largest
    context.note(
        f"assigned the images class by class: {agreeing} of {images} soft labels have their largest value at that class"
    )
    return by_place


def _name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")

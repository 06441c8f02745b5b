"""The elements of a synthetic set's file by name, and the checks that they form a set.

docs/file-format.md is the normative text; this module is its table in code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

FORMAT = "atom-plugin/synthetic-set"
FORMAT_VERSION = 3
"""The newest version that is read. A file has the oldest version that supports its contents (:func:`needed_version`)."""

ZCA = "preprocessing/zca"
SOFT_LABELS = "soft_labels"
LEARNER_LOGITS = "learner_logits"
_COMPLETE = (ZCA, SOFT_LABELS)  # groups that a file holds whole, or not at all

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]


class SchemaError(Exception):
    """Elements that do not form a synthetic set; the store adds the path and what to do."""


@dataclass(frozen=True)
class Element:
    """One dataset. ``dtypes`` are numpy's names of the types allowed, or "text" or "json" for UTF-8 bytes of any length.

    ``axes`` names its dimensions: a number is a fixed length, a letter is one length throughout the file.
    """

    dtypes: tuple[str, ...]
    axes: str
    units: str
    description: str
    optional: bool = False
    since: int = 1

    @property
    def holds_text(self) -> bool:
        """Whether the values are UTF-8 bytes, padded with zero bytes to the same length."""
        return self.dtypes in (("text",), ("json",))


GROUPS = {
    "preprocessing": "From images v in [0, 1] to the stored ones: x = (v - mean) / std per channel, then, if there "
    "is a group zca, y = matrix @ (flatten(x) - zca/mean), flattened in the order C, H, W.",
    ZCA: "ZCA whitening fitted on the real training images after standardisation.",
    SOFT_LABELS: "What networks learn of each image in place of its class.",
    "provenance": "What made the images.",
}

# In this order in the file; `images` first, since its axes give C, H and W their lengths.
ELEMENTS = {
    "images": Element(
        ("<f4", "<f2", "|u1"),
        "N C H W",
        "preprocessed pixel value",
        "The synthetic images after the preprocessing of this file.",
    ),
    "factor": Element(
        ("<i8",),
        "",
        "tiles per side",
        "Each image holds factor x factor tiles, to be enlarged bilinearly before preprocessing; absent for 1.",
        optional=True,
        since=2,
    ),
    "prefixes": Element(
        ("<i8",),
        "J",
        "images",
        "The first so many images of each class are a set of their own; ascending. Absent where nothing is said of them.",
        optional=True,
        since=2,
    ),
    "labels": Element(("<i8",), "N", "class id", "The class of each image, an index into class_names."),
    "class_names": Element(("text",), "K", "UTF-8 text", "The name of every class of the image source, by class id."),
    f"{SOFT_LABELS}/values": Element(
        ("<f4",), "N K", "by kind", "A value for each image and class of class_names.", optional=True, since=3
    ),
    f"{SOFT_LABELS}/kind": Element(
        ("text",),
        "",
        "UTF-8 text",
        "probabilities (a row sums to 1), logits (their softmax is learned) or scores (targets of a regression).",
        optional=True,
        since=3,
    ),
    "learned_lr": Element(
        ("<f8",),
        "",
        "learning rate",
        "What a method learned to train on the images with; absent where none was learned.",
        optional=True,
        since=3,
    ),
    LEARNER_LOGITS: Element(
        ("<f2",),
        "N T K",
        "logit",
        "Outputs of the network that a replay memory's learner was, of each tile; NaN where it gave none.",
        optional=True,
    ),
    "preprocessing/image_shape": Element(("<i8",), "3", "pixels", "C, H, W that the preprocessing was fitted on."),
    "preprocessing/mean": Element(("<f4",), "C", "pixel value in [0, 1]", "Subtracted per channel; 0 for none."),
    "preprocessing/std": Element(("<f4",), "C", "pixel value in [0, 1]", "Divided by per channel; 1 for none."),
    f"{ZCA}/mean": Element(("<f4",), "D", "standardised pixel value", "Subtracted before whitening.", optional=True),
    f"{ZCA}/matrix": Element(
        ("<f4",), "D D", "per standardised pixel value", "U diag(1 / sqrt(s + eps)) U^T, symmetric.", optional=True
    ),
    f"{ZCA}/eps": Element(("<f8",), "", "variance", "Added to the covariance's eigenvalues s.", optional=True),
    "provenance/method": Element(("text",), "", "UTF-8 text", "The matcher or selection that made the images."),
    "provenance/seed": Element(("<i8", "<u8"), "", "none", "The seed of every random draw."),
    "provenance/iterations": Element(("<i8",), "", "steps", "Image updates done."),
    "provenance/final_loss": Element(
        ("<f8",), "", "loss of the method", "Loss of the last step; absent for images that were not optimised.", True
    ),
    "provenance/config": Element(("json",), "", "JSON object", "Every option needed to make the images again."),
    "provenance/source": Element(("json",), "", "JSON object", "The image source: name, options and fingerprint."),
    "provenance/versions": Element(("json",), "", "JSON object", "Versions of the packages that made the images."),
}


_PIXELS = replace(ELEMENTS["images"], units="0 to 255", description="The synthetic images before the preprocessing.")


def element_of(key: str, dtype: str) -> Element:
    """The element ``key`` whose values have numpy's ``dtype``: images may be pixels."""
    return _PIXELS if (key, dtype) == ("images", "|u1") else ELEMENTS[key]


def needed_version(found: Mapping[str, str]) -> int:
    """The oldest format version that has these elements, numpy's type by name."""
    return max([1 if found.get("images", "<f4") == "<f4" else 2, *(ELEMENTS[key].since for key in found)])


def check_shapes(found: Mapping[str, tuple[str, tuple[int, ...]]], *, version: int = FORMAT_VERSION) -> None:
    """Check each element's (numpy type, shape). Raises SchemaError at the first that is missing or does not fit ``version``."""
    if (needed := needed_version({key: dtype for key, (dtype, _) in found.items()})) > version:
        what = "images that are packed or no float32" if needed == 2 else "soft labels or a learned learning rate"
        raise SchemaError(f"format_version: found {version}, expected {needed} for {what}")
    lengths = {"3": 3}
    begun = tuple(f"{group}/" for group in _COMPLETE if any(key.startswith(f"{group}/") for key in found))
    for key, element in ELEMENTS.items():
        if key not in found:
            if element.optional and not key.startswith(begun):
                continue
            raise SchemaError(f"{key} is missing")
        dtype, shape = found[key]
        if dtype not in element.dtypes and not (element.holds_text and dtype.startswith("|S")):
            raise SchemaError(f"{key}: found values of type {dtype}, expected {' or '.join(element.dtypes)}")
        axes = element.axes.split()
        fits = len(axes) == len(shape) and all(
            lengths.setdefault(axis, n) == n for axis, n in zip(axes, shape, strict=True)
        )
        if not fits or (key == "images" and 0 in shape[1:]):
            raise SchemaError(f"{key}: found shape {shape}, expected ({', '.join(axes)})" + _with(lengths, axes))
        lengths.setdefault("D", lengths["C"] * lengths["H"] * lengths["W"])


def check_values(arrays: Arrays, image_blocks: Iterable[Array], image_shape: tuple[int, ...]) -> None:
    """Check the conditions on values, with the images in ``image_blocks``. Raises SchemaError."""
    for block in image_blocks:
        _check_finite("images", block)
    for key, array in arrays.items():
        if key not in ("images", LEARNER_LOGITS) and array.dtype.kind == "f":
            _check_finite(key, array)
    labels, classes = arrays["labels"], len(arrays["class_names"])
    if labels.size and not (0 <= labels.min() and labels.max() < classes):
        raise SchemaError(f"labels: found {labels.min()} to {labels.max()}, expected 0 to {classes - 1}")
    fitted_on = tuple(arrays["preprocessing/image_shape"].tolist())
    if fitted_on != tuple(image_shape):
        raise SchemaError(
            f"preprocessing/image_shape: found {fitted_on}, expected the shape of the images, {image_shape}"
        )
    for key in ("preprocessing/std", f"{ZCA}/eps", "factor", "learned_lr"):
        if key in arrays and not (arrays[key] > 0).all():
            raise SchemaError(f"{key}: found {arrays[key].min()}, expected values above 0")
    prefixes = arrays.get("prefixes", np.ones(1))
    if not (prefixes >= 1).all() or not (np.diff(prefixes) > 0).all():
        raise SchemaError(f"prefixes: found {prefixes.tolist()[:6]}, expected ascending numbers of 1 or more")
    factor = int(arrays.get("factor", 1))
    if any(side % factor for side in image_shape[1:]):
        raise SchemaError(f"factor: found {factor}, expected one that divides the sides of the images, {image_shape}")
    if factor > 1 and f"{ZCA}/eps" in arrays:
        raise SchemaError(f"factor: found {factor} with ZCA whitening, expected 1")


def _check_finite(key: str, array: Array) -> None:
    if not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise SchemaError(f"{key}: found {count} of {array.size} values not finite, expected none")


def _with(lengths: Mapping[str, int], axes: list[str]) -> str:
    known = [f"{axis} = {lengths[axis]}" for axis in dict.fromkeys(axes) if axis in lengths and not axis.isdigit()]
    return f" with {', '.join(known)}" if known else ""

"""A client's images as records, and the server's checks of them before their use."""

from __future__ import annotations

import math

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from atom_plugin.errors import StoreError, shape_text, shown
from atom_plugin.integrations.flower.task import Task, preprocessing_record
from atom_plugin.store.provenance import Provenance
from atom_plugin.store.synthetic_set import SyntheticSet

IMAGES, PREPROCESSING, METRICS = "images", "preprocessing", "metrics"
"""The keys of the reply's records."""
# On the [0, 1] scale. Distilled floats stay within a few units; larger images would spoil the network of all clients.
_LARGEST_PIXEL = 10.0


def count_bytes(content: RecordDict) -> int:
    """The bytes of all records of a message, by Flower's count."""
    return sum(record.count_bytes() for record in content.values())


def reply_content(task: Task, images: torch.Tensor, labels: torch.Tensor, *, examples: int) -> RecordDict:
    """The records of a reply: stored ``images`` (n, C, H, W), and ``labels`` (n,), the server's class ids.

    ``examples`` is the number of real images that they were distilled from.
    """
    smallest = np.min_scalar_type(max(len(task.class_names) - 1, 0))
    arrays = ArrayRecord(
        {"images": Array(images.numpy()), "labels": Array(labels.numpy().astype(smallest))},
    )
    metrics = MetricRecord({"num-examples": examples, "bytes": arrays.count_bytes()})
    return RecordDict(
        {IMAGES: arrays, PREPROCESSING: preprocessing_record(task.preprocessing, task.config), METRICS: metrics}
    )


def read_reply(reply: Message, task: Task) -> SyntheticSet:
    """The set in ``reply``, which may be empty. Raises StoreError, with the reason, for anything but the requested set."""
    if reply.has_error():
        raise StoreError(f"dropped out: {' '.join(str(reply.error.reason).split())[-300:]}")
    _check_preprocessing(reply.content, task)
    images, labels = (_array(reply.content, name) for name in ("images", "labels"))
    _check_images(images, task)
    _check_labels(labels, len(images), task)
    config = task.config
    synthetic_set = SyntheticSet(
        images=torch.from_numpy(images.copy()),
        labels=torch.from_numpy(labels.astype(np.int64)),
        class_names=task.class_names,
        preprocessing=task.preprocessing,
        provenance=Provenance(
            method=config.matcher, seed=config.seed, config=config.to_json(), iterations=config.iterations
        ),
        factor=config.factor,
    )
    if not float(synthetic_set.as_stored().abs().amax() if len(images) else 0.0) <= _LARGEST_PIXEL:
        raise StoreError(f"found pixels beyond {_LARGEST_PIXEL:g} times the range of real images; lower the image_lr")
    return synthetic_set


def _check_preprocessing(content: RecordDict, task: Task) -> None:
    found, expected = content.config_records.get(PREPROCESSING), preprocessing_record(task.preprocessing, task.config)
    if found is None:
        raise StoreError(
            f"found no record {PREPROCESSING!r}; send the result of atom_plugin.integrations.flower.answer"
        )
    for name, value in expected.items():
        if found.get(name) != value:
            raise StoreError(
                f"found images of another preprocessing, {name} {shown(found.get(name))}, expected {shown(value)}; use the "
                "server's own"
            )


def _array(content: RecordDict, name: str) -> np.ndarray:
    record = content.array_records.get(IMAGES)
    if record is None or name not in record:
        raise StoreError(f"found no array {name!r}; send the result of atom_plugin.integrations.flower.answer")
    try:
        array = record[name].numpy()
    # Bytes from another machine: numpy has no single exception for invalid arrays.
    except Exception as error:
        raise StoreError(f"the array {name!r} cannot be read ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(array, np.ndarray):
        raise StoreError(f"the record {name!r} is not a single array, but a {type(array).__name__}")
    return array


def _check_images(images: np.ndarray, task: Task) -> None:
    storage, shape = task.config.storage, task.preprocessing.image_shape
    if images.ndim != 4 or images.shape[1:] != shape or images.dtype != np.dtype(storage):
        raise StoreError(
            f"found images {images.dtype} ({', '.join(map(str, images.shape))}), expected {storage} (n, "
            f"{', '.join(map(str, shape))})"
        )
    if not np.isfinite(images).all():
        wrong = math.prod(images.shape) - int(np.isfinite(images).sum())
        raise StoreError(f"found {wrong} values that are NaN or infinite in images of {shape_text(shape)}")


def _check_labels(labels: np.ndarray, count: int, task: Task) -> None:
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise StoreError(f"found labels {labels.dtype} {labels.shape}, expected whole numbers ({count},)")
    classes, ipc = len(task.class_names), task.config.ipc
    if count and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise StoreError(
            f"found labels from {int(labels.min())} to {int(labels.max())}, expected class ids from 0 to {classes - 1}"
        )
    most = int(np.bincount(labels.astype(np.int64)).max(initial=0))
    if most > ipc:
        raise StoreError(f"found {most} images of one class, expected {ipc} at most")

"""The client: distils its images by the server's task and sends the result as records. It sends no other data."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Message, RecordDict

from atom_plugin.datasets import SourceData, Split
from atom_plugin.datasets.common import content_digest
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.loop import distill
from atom_plugin.errors import ConfigError, SourceError, StoreError, require, shape_text
from atom_plugin.integrations.flower.reply import reply_content
from atom_plugin.integrations.flower.task import Task
from atom_plugin.models.network_pool import NetworkPool, flat_weights
from atom_plugin.runtime.randomness import generator_for


def answer(message: Message, images: Split, *, device: str = "auto") -> Message:
    """The reply to a training message of :class:`~atom_plugin.integrations.flower.MergeSets`: ``images`` distilled.

    Labels are the server's class ids. Classes with fewer images than the task requires are left out; a client without any other
    class sends an empty set. The same round, server seed and images give the same bytes. Raises SourceError for images that
    do not fit the server's, StoreError for a message that cannot be read, and the errors of
    :func:`~atom_plugin.distillation.loop.distill`; Flower sends the reason to the server.
    """
    require("images", images, Split)
    task = Task.from_message(message.content)
    held = _classes_with_enough(images, task)
    if not held:
        empty = torch.zeros(0, *task.preprocessing.image_shape, dtype=getattr(torch, task.config.storage))
        content = reply_content(task, empty, torch.zeros(0, dtype=torch.int64), examples=0)
        return Message(content, reply_to=message)
    data = _source_of(images, held, task)
    with tempfile.TemporaryDirectory(prefix="atom-plugin-") as folder:
        config = _own_config(message.content, task, data, held, Path(folder))
        made = distill(config, data, device=device, preprocessing=task.preprocessing).with_class_labels("a federation")
    content = reply_content(task, made.images, torch.tensor(held)[made.labels], examples=len(data.train))
    return Message(content, reply_to=message)


def _classes_with_enough(images: Split, task: Task) -> list[int]:
    """The class ids with enough images for the start, sorted. Raises SourceError for images or labels that do not fit."""
    if images.image_shape != task.preprocessing.image_shape:
        raise SourceError(
            f"this client's images are {shape_text(images.image_shape)}, the server's "
            f"{shape_text(task.preprocessing.image_shape)}; resize them"
        )
    low, high = (int(images.labels.min()), int(images.labels.max())) if len(images) else (0, 0)
    if low < 0 or high >= len(task.class_names):
        raise SourceError(
            f"this client's labels run from {low} to {high}, but the server has {len(task.class_names)} classes; use its ids"
        )
    counts = torch.bincount(images.labels, minlength=len(task.class_names))
    found: list[int] = (counts >= task.config.ipc * task.config.tiles).nonzero().flatten().tolist()
    return found


def _source_of(images: Split, held: list[int], task: Task) -> SourceData:
    """The images of the classes ``held``, numbered from 0 in that order."""
    rows = torch.isin(images.labels, torch.tensor(held)).nonzero().flatten()
    labels = torch.searchsorted(torch.tensor(held), images.labels[rows])
    train = Split(images=images.rows(rows), labels=labels)
    names = tuple(task.class_names[label] for label in held)
    digest = content_digest(train, train, names)
    return SourceData(name="client", train=train, test=train, class_names=names, fingerprint=digest, options={})


def _own_config(content: RecordDict, task: Task, data: SourceData, held: list[int], folder: Path) -> DistillConfig:
    """The server's config with this round's seed, and networks that are random or near the global one."""
    # The seed depends on the images, so that clients need no number, and no two start from the same noise.
    seed = generator_for(task.config.seed, "federation", task.round, data.fingerprint).initial_seed() % 2**63
    config = replace(task.config, seed=seed)
    if task.radius is None:
        return config
    path = folder / "global.pool"
    _pool_of(content, task, data, held).save(path)
    return replace(config, pool=str(path), network_state="around", network_radius=task.radius)


def _pool_of(content: RecordDict, task: Task, data: SourceData, held: list[int]) -> NetworkPool:
    """The global network, with a classifier of the classes ``held``. Raises StoreError if its weights do not fit."""
    records: list[ArrayRecord] = list(content.array_records.values())
    if len(records) != 1:
        raise StoreError(f"found {len(records)} records of arrays in the message, expected one with the global weights")
    shape, network = data.image_shape, task.config.network
    whole, own = network.build(shape, len(task.class_names)), network.build(shape, len(held))
    try:
        whole.load_state_dict(records[0].to_torch_state_dict())
    except (RuntimeError, TypeError, ValueError) as error:
        raise StoreError(
            f"the global weights do not fit the server's network ({' '.join(str(error).split())[:200]})"
        ) from error
    theirs = whole.state_dict()
    # Only the classifier differs, in its number of rows; if that is equal too, the client has every class.
    own.load_state_dict(
        {n: theirs[n] if theirs[n].shape == value.shape else theirs[n][held] for n, value in own.state_dict().items()}
    )
    weights = flat_weights(own)
    if not bool(weights.isfinite().all()):
        raise ConfigError("found global weights that are NaN or infinite; lower the server's learning rate")
    return NetworkPool(
        network=network,
        image_shape=shape,
        classes=len(held),
        epochs=(0,),
        weights=weights.view(1, 1, -1),
        accuracies=(0.0,),
        fingerprint=data.fingerprint,
        preprocessing=task.preprocessing.describe(),
        made={"by": "federation", "round": task.round},
    )

"""Synthetic images in the form of Mammoth's ``Buffer``: in [0, 1], neither normalised nor augmented."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from atom_plugin.errors import ConfigError
from atom_plugin.store.synthetic_set import SyntheticSet


def fill_buffer(buffer: Any, images: SyntheticSet, *, tasks: Mapping[int, int] | None = None) -> None:
    """Replace the content of a Mammoth ``Buffer`` by the decoded ``images``, labelled with their class ids.

    Any preprocessing is undone, and the images are clamped to [0, 1]: Mammoth normalises and augments the images that it draws,
    and some of its models convert them to pixels. ``tasks`` (task by class id) adds the buffer's ``task_labels``. Raises
    ConfigError if the buffer is too small for all images, or holds logits, which synthetic images do not have; the
    buffer then stays unchanged.
    """
    count = images.decoded_count
    if count > buffer.buffer_size:
        raise ConfigError(
            f"the buffer has room for {buffer.buffer_size} images, but the set has {count}; make the buffer larger, "
            "or the set smaller (first())"
        )
    if "logits" in buffer.used_attributes:
        raise ConfigError(
            "the buffer holds logits of its images, which synthetic images do not have; use a model that replays images and "
            "labels alone"
        )
    labels = images.decoded_labels
    more: dict[str, torch.Tensor] = {}
    if tasks is not None:
        more["task_labels"] = torch.tensor([tasks[label] for label in labels.tolist()], dtype=torch.int64)
    buffer.empty()
    buffer.add_data(examples=images.true_colour().clamp(0, 1), labels=labels, **more)

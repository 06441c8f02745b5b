"""Batches of a memory, gathered in one operation, and mixed with batches of a stream; for loops of any framework."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from atom_plugin.replay.memory import ReplayMemory


class MemoryBatches:
    """Shuffled batches [x, y] or [x, y, task] of a memory: each iteration is one pass over it in a new order.

    Reading a batch image by image costs more than the training step that uses it; here a batch is one gather. The order
    comes from torch's global generator, as in torch's loaders. ``logits``: the stored logits of the latest batch, float32
    (n, classes), NaN where unknown; None if the memory keeps none.
    """

    def __init__(self, memory: ReplayMemory, batch_size: int) -> None:
        held = memory.images.decoded()
        self._parts = [held.images, held.labels]
        if memory.tasks:
            self._parts.append(torch.tensor([memory.tasks[label] for label in held.labels.tolist()]))
        self._batch_size = batch_size
        self._logits = memory.logits
        self.logits: torch.Tensor | None = None

    def __len__(self) -> int:
        return math.ceil(len(self._parts[0]) / self._batch_size)

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        for chosen in torch.randperm(len(self._parts[0])).split(self._batch_size):
            self.logits = None if self._logits is None else self._logits[chosen]
            yield [part[chosen] for part in self._parts]

    def in_order(self) -> Iterator[list[torch.Tensor]]:
        """One pass in the order of ``memory.images.decoded()``."""
        return (list(parts) for parts in zip(*(part.split(self._batch_size) for part in self._parts), strict=True))


class MixedBatches:
    """Batches of a stream, each followed by a batch of the memory, for one pass over the stream; the memory repeats.

    ``stream_samples``: the number of stream samples in the latest batch; they come first.
    """

    def __init__(self, stream: Iterable[Any], memory: Iterable[Any]) -> None:
        self._stream = stream
        self._memory = memory
        self.stream_samples = 0

    def __len__(self) -> int:
        return len(self._stream)  # type: ignore[arg-type]  # a loader has a length, though Iterable does not say so

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        for current, replayed in zip(self._stream, endless(self._memory), strict=False):
            self.stream_samples = len(current[1])
            yield [torch.cat(pair) for pair in zip(current, replayed, strict=True)]


def endless(batches: Iterable[Any]) -> Iterator[Any]:
    """``batches``, repeated without end."""
    return itertools.chain.from_iterable(itertools.repeat(batches))

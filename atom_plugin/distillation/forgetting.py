"""Forgetting events (Toneva et al., 2019): how often training learns an image and loses it again."""

from __future__ import annotations

import torch


class ForgettingCounter:
    """Counts, over a training run, the forgetting events of ``labels`` (N,), int64 on the CPU.

    An event is an image that is classified right when its batch comes and wrong when its batch comes the next time (their
    algorithm 1), augmented as the training augments and before the batch's step.
    """

    def __init__(self, labels: torch.Tensor) -> None:
        self._labels = labels
        self._events = torch.zeros(len(labels), dtype=torch.int64)
        self._right = torch.zeros(len(labels), dtype=torch.bool)
        self._learnt = torch.zeros(len(labels), dtype=torch.bool)

    def update(self, rows: torch.Tensor, logits: torch.Tensor) -> None:
        """Take note of ``logits`` (n, classes) of the distinct images at ``rows`` (n,)."""
        right = logits.argmax(1).cpu() == self._labels[rows]
        self._events[rows] += self._right[rows] & ~right
        self._right[rows] = right
        self._learnt[rows] |= right

    def scores(self) -> torch.Tensor:
        """Events of each image, float64 (N,); infinite for one that was never classified right, as the paper ranks it."""
        return self._events.double().masked_fill(~self._learnt, torch.inf)

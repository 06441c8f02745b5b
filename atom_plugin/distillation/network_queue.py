"""A queue of networks that are trained on real images while a run matches under them (Zhao et al., "IDM", CVPR 2023).

It begins with a few fresh networks, and gets another every so many iterations; the oldest leaves when it is full. Each
iteration matches under one of them, and then trains two for a few steps. So networks of every age up to the queue's own are
matched, without a pool made before the run. As in IDM's released code, training images are not augmented, and the first
iteration already adds a network.

A checkpoint holds weights, momenta and accuracies of all networks, about 260 MB for 100 ConvNets of width 128.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.network_trainer import NetworkTrainer
from atom_plugin.errors import StoreError
from atom_plugin.models.fitting import BATCH_SIZE
from atom_plugin.runtime.randomness import generator_for

_AT_FIRST = 3  # networks
_TRAINED = 2  # networks in an iteration
_STEPS = 10  # of each
_TENSORS = ("weights", "momenta")


@dataclass(frozen=True, kw_only=True)
class QueuedNetwork:
    """All parameters (P,) of a network and the momentum (P,) of its training, float32 on the CPU.

    ``accuracy``, in [0, 1], is that on the images of its last turn of training, before each step; 0 for a fresh network.
    """

    weights: torch.Tensor
    momentum: torch.Tensor
    accuracy: float = 0.0


class NetworkQueue:
    """The networks of a run, oldest first; ``trainer`` draws and trains them, and its own network is overwritten."""

    def __init__(self, config: DistillConfig, trainer: NetworkTrainer, *, images: int) -> None:
        self._config = config
        self._trainer = trainer
        self._images = images
        self._made = 0
        self.networks: list[QueuedNetwork] = []

    def draw(self, iteration: int, generator: torch.Generator) -> QueuedNetwork:
        """The network that ``iteration`` matches under; new networks that are due join first."""
        if iteration == 0:
            for _ in range(_AT_FIRST):
                self._push()
        if iteration % self._config.queued_every == 0:
            self._push()
        return self.networks[int(torch.randint(len(self.networks), (), generator=generator))]

    def _push(self) -> None:
        generator = generator_for(self._config.seed, "queue", self._made)
        weights = self._trainer.fresh_weights(generator)
        self._made += 1
        joined = QueuedNetwork(weights=weights, momentum=torch.zeros_like(weights))
        self.networks = [*self.networks, joined][-self._config.queued_networks :]

    def train(self, iteration: int) -> None:
        """Train some networks after the images' step of ``iteration``. Raises DivergenceError if a loss is not finite."""
        generator = generator_for(self._config.seed, "queue training", iteration)
        for place in torch.randperm(len(self.networks), generator=generator)[:_TRAINED].tolist():
            held = self.networks[place]
            chosen = torch.randperm(self._images, generator=generator)
            rows = chosen[torch.arange(_STEPS * BATCH_SIZE) % len(chosen)]
            weights, momentum, accuracy = self._trainer.train_on(rows, held.weights, held.momentum, generator)
            self.networks[place] = QueuedNetwork(weights=weights, momentum=momentum, accuracy=accuracy)

    def state(self) -> dict[str, Any]:
        """The state for :meth:`restore`."""
        return {
            "weights": torch.stack([each.weights for each in self.networks]),
            "momenta": torch.stack([each.momentum for each in self.networks]),
            "accuracies": [each.accuracy for each in self.networks],
            "made": self._made,
        }

    def restore(self, state: object) -> None:
        """Continue from a result of :meth:`state`. Raises StoreError for any other value."""
        if not isinstance(state, Mapping) or not state.keys() >= {*_TENSORS, "accuracies", "made"}:
            raise StoreError("found no queue of networks")
        made, accuracies = state["made"], state["accuracies"]
        if type(made) is not int or not isinstance(accuracies, list) or not 1 <= len(accuracies) <= made:
            raise StoreError("found a queue of networks of unknown age")
        if not all(isinstance(value, float) and 0 <= value <= 1 for value in accuracies):
            raise StoreError("found a queue of networks with accuracies that are none")
        expected = (min(made, self._config.queued_networks), self._trainer.parameters)
        for name in _TENSORS:
            _check(name, state[name], expected)
        if len(accuracies) != expected[0]:
            raise StoreError(f"found a queue of {len(accuracies)} networks, expected {expected[0]}")
        self._made = made
        rows = zip(state["weights"], state["momenta"], accuracies, strict=True)
        self.networks = [QueuedNetwork(weights=w.clone(), momentum=m.clone(), accuracy=a) for w, m, a in rows]


def _check(name: str, found: object, expected: tuple[int, int]) -> None:
    """Raise StoreError unless ``found`` is a finite float32 tensor of the ``expected`` shape."""
    fits = isinstance(found, torch.Tensor) and found.dtype == torch.float32 and tuple(found.shape) == expected
    if not fits or not bool(found.isfinite().all()):  # type: ignore[attr-defined]  # a tensor, if it fits
        raise StoreError(f"found {name} of a queue that are not float32 {expected}, or not finite")

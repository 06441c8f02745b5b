"""The server: a Flower strategy that merges the clients' sets in each round and trains the global network on them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from atom_plugin.distillation.config import DistillConfig
from atom_plugin.errors import AtomError
from atom_plugin.evaluation.training import TrainingRun, train
from atom_plugin.evaluation.training_recipes import TrainConfig
from atom_plugin.integrations.flower.reply import count_bytes, read_reply
from atom_plugin.integrations.flower.task import TASK, Task
from atom_plugin.models.convnet import ConvNet, ConvNetConfig
from atom_plugin.runtime.device import resolve_device, resolve_precision
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.store.concatenation import concatenate
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing

_logger = logging.getLogger("atom_plugin")


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A client, by Flower's node id, whose reply in ``round`` was refused, and the reason."""

    round: int
    client: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class _Continued:
    """An architecture whose networks start from ``weights`` instead of a random draw."""

    config: ConvNetConfig
    weights: ArrayRecord

    def build(
        self, image_shape: tuple[int, int, int], classes: int, *, generator: torch.Generator | None = None
    ) -> ConvNet:
        network = self.config.build(image_shape, classes, generator=generator)
        network.load_state_dict(self.weights.to_torch_state_dict())
        return network


class MergeSets(FedAvg):
    """In each round, clients distil by ``config`` (:func:`~atom_plugin.integrations.flower.answer`); the global network
    continues from its weights with the recipe ``training`` on all their images.

    The matching networks have the distance ``radius`` from the global weights (:mod:`atom_plugin.models.network_pool`); with
    None they are random, no weights are sent, and one round is the one-shot form. All clients use ``preprocessing`` and the ids
    of ``class_names``. Replies that fail the checks are left out, logged, and kept in ``refusals``. ``union`` is the last
    round's set. ``sampling``: FedAvg's options for its choice of nodes. Raises ConfigError for a task that clients refuse.
    """

    def __init__(
        self,
        config: DistillConfig,
        training: TrainConfig,
        preprocessing: Preprocessing,
        class_names: tuple[str, ...],
        *,
        radius: float | None = 5.0,
        device: str = "auto",
        **sampling: Any,
    ) -> None:
        super().__init__(**sampling)
        self._task = Task(config=config, preprocessing=preprocessing, class_names=class_names, radius=radius)
        self._training = training
        self._device = resolve_device(device)
        self._weights = ArrayRecord()
        self._asked: set[int] = set()
        self._sent = 0
        self.refusals: list[Refusal] = []
        self.union: SyntheticSet | None = None

    def initial_arrays(self) -> ArrayRecord:
        """The initial weights: a network drawn from the config's seed."""
        task = self._task
        generator = generator_for(task.config.seed, "federation")
        shape, classes = task.preprocessing.image_shape, len(task.class_names)
        return ArrayRecord(task.config.network.build(shape, classes, generator=generator).state_dict())

    def network(self, arrays: ArrayRecord) -> ConvNet:
        """The global network with these weights."""
        task = self._task
        architecture = _Continued(config=task.config.network, weights=arrays)
        return architecture.build(task.preprocessing.image_shape, len(task.class_names))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """FedAvg's messages to FedAvg's choice of clients, with the task, and with the weights if ``radius`` is given."""
        messages = list(super().configure_train(server_round, arrays, config, grid))
        self._task = replace(self._task, round=server_round)
        self._weights = arrays
        for message in messages:
            content = RecordDict({self.configrecord_key: config, TASK: self._task.to_record()})
            if self._task.radius is not None:
                content[self.arrayrecord_key] = arrays
            message.content = content
        self._asked = {message.metadata.dst_node_id for message in messages}
        self._sent = sum(count_bytes(message.content) for message in messages)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The global network's new weights, or None if no client sent an image; and counts and bytes of the round.

        Raises DivergenceError if the training on the union diverges.
        """
        received, sets = 0, []
        silent = set(self._asked)
        for reply in replies:
            client = reply.metadata.src_node_id
            silent.discard(client)
            received += count_bytes(reply.content) if reply.has_content() else 0
            try:
                sets.append(read_reply(reply, self._task))
            except AtomError as error:
                self._refuse(client, str(error))
        for client in sorted(silent):
            self._refuse(client, "dropped out: no reply in time")
        images = sum(map(len, sets))
        metrics = MetricRecord(
            {
                "clients": len(sets),
                "refused": len(self._asked) - len(sets),
                "images": images,
                "bytes-sent": self._sent,
                "bytes-received": received,
            }
        )
        if not images:
            return None, metrics
        # Replies arrive in any order; the same replies give the same network.
        self.union = concatenate(sorted(sets, key=_digest))
        return self._trained_on(self.union), metrics

    def _trained_on(self, union: SyntheticSet) -> ArrayRecord:
        task = self._task
        precision = resolve_precision(task.config.precision, self._device)
        network = train(
            union,
            _Continued(config=task.config.network, weights=self._weights),
            self._training,
            seed=generator_for(task.config.seed, "federation", task.round).initial_seed() % 2**63,
            run=TrainingRun(device=self._device, precision=precision),
        )
        return ArrayRecord(network.state_dict())

    def _refuse(self, client: int, reason: str) -> None:
        self.refusals.append(Refusal(round=self._task.round, client=client, reason=reason))
        _logger.warning("round %d: client %d refused: %s", self._task.round, client, reason)


def _digest(part: SyntheticSet) -> bytes:
    return hashlib.sha256(part.images.numpy().tobytes() + part.labels.numpy().tobytes()).digest()

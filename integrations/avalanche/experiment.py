"""A continual-learning experiment: one result for each combination of class order, policy and network."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import BaseLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import JointTraining, Naive

from atom_plugin.datasets import SourceData
from atom_plugin.errors import ConfigError
from atom_plugin.evaluation.training import TEST_BATCH, TrainConfig
from atom_plugin.integrations.avalanche.checks import check_comparison
from atom_plugin.integrations.avalanche.class_orders import Stream, Streams
from atom_plugin.integrations.avalanche.experiment_config import ReplayConfig
from atom_plugin.integrations.avalanche.plugin_setup import PluginSetup, file_stem, plugins_for
from atom_plugin.integrations.avalanche.state import load_stream, remove_stream, save_stream
from atom_plugin.integrations.avalanche.training_hooks import TrainingHooks, accuracies, quiet, small_seed
from atom_plugin.replay.logits import MemoryLabels
from atom_plugin.replay.policies import MemoryOptions
from atom_plugin.replay.results import StreamResult
from atom_plugin.runtime.device import long_work, resolve_device
from atom_plugin.runtime.randomness import generator_for, preserved_random_state
from atom_plugin.store.synthetic_set import SyntheticSet

# Settings that are told only where they have an effect, so that files of comparisons without them can be resumed.
_OFF = {"memory_labels": "hard", "separate_normalisation": False}
_TOLD = (
    "steps",
    "ipc",
    "epochs",
    "batch_size",
    "lr",
    "memory_augmentation",
    "stream_augmentation",
    "asymmetric_loss",
    "finetune_steps",
    *_OFF,
    "logit_weight",
    "seed",
)


class Experiment:
    """Runs of one :class:`ReplayConfig` on one source.

    ``folder`` keeps the memories' sets and the states of unfinished runs; it must exist before the first run. ``sets`` fill the
    memory of the policy "stored", and determine the preprocessing of the streams. ``streams``: the streams of another
    experiment on the same data that differs only in mode, so that the images are in memory once. Raises ConfigError if the
    config does not fit the source.
    """

    def __init__(
        self,
        config: ReplayConfig,
        data: SourceData,
        *,
        folder: Path,
        sets: Sequence[SyntheticSet] = (),
        device: str = "auto",
        streams: Streams | None = None,
    ) -> None:
        self.config = config
        self.data = data
        self.device = resolve_device(device)
        self._sets = sets
        self._folder = folder
        self._recipe = config.distill_config(data.image_shape)
        if config.separate_normalisation and (found := self._recipe.network.normalisation) != "batch":
            raise ConfigError(
                f"separate normalisation has no effect with {found} normalisation; leave it out, or take --normalisation batch"
            )
        self.streams = streams or Streams(data, config.steps, self._recipe, folder=folder, sets=sets)
        self.streams.classes(0)  # refuses more steps than classes

    def check(self, policies: Sequence[str], orders: int) -> None:
        """Check in advance what :meth:`run` needs: policies, sets and source that fit, enough images, and a network.

        Raises ConfigError, SourceError, or PluginError for a matcher that cannot be loaded.
        """
        check_comparison(policies, orders, self.config, self.streams)
        self._network(0)
        with quiet():
            self.streams.get(0)

    def run(
        self,
        policy: str,
        order: int,
        network: int,
        *,
        on_epoch: Callable[[], object] | None = None,
        on_distilled: Callable[[Any], None] | None = None,
    ) -> StreamResult:
        """The result of ``policy`` on the ``order``-th class order with the ``network``-th network, both from 0.

        An interrupted run continues after its last finished experience, with the same result. Avalanche's memories of raw
        images cannot be saved, so their runs start over. All policies see the same stream in the same batches, and start
        from the same networks. Global random states are restored. ``on_epoch`` is called after each epoch, and for each
        epoch that an earlier call finished. Raises the errors of distillation and of files.
        """
        with quiet():
            stream = self.streams.get(order)
        setup = self._setup(policy, stream, network, on_distilled)
        state = self._state(policy, order, network)
        rows: list[list[float]] = []
        seconds = 0.0
        with self._running(order, network):
            strategy = self._strategy(policy, setup, order, network, on_epoch)
            if setup.raw is None and state.exists():
                record = load_stream(state, strategy, setup.memory)
                rows, seconds = record["accuracies"], record["seconds"]
                if on_epoch is not None:
                    for _ in range(len(rows) * self.config.epochs):
                        on_epoch()
            for step in range(len(rows), self.config.steps):
                started = time.perf_counter()
                if policy == "joint":  # trains once, on all that has come
                    strategy = self._strategy(policy, setup, order, network, on_epoch)
                    strategy.train(stream.benchmark.train_stream[: step + 1])
                else:
                    strategy.train(stream.benchmark.train_stream[step])
                rows.append(accuracies(strategy, stream.benchmark, step))
                seconds += time.perf_counter() - started
                if setup.raw is None:
                    save_stream(state, strategy, setup.memory, record={"accuracies": rows, "seconds": seconds})
        images, size = setup.size(self.data.image_shape)
        return StreamResult(
            policy=policy,
            mode=self.config.mode,
            order=order,
            network=network,
            accuracies=tuple(tuple(row) for row in rows),
            test_images=tuple(len(experience.dataset) for experience in stream.benchmark.test_stream),
            memory_images=images,
            memory_bytes=size,
            seconds=seconds,
            config=self.describe(),
        )

    def forget(self, result: StreamResult) -> None:
        """Delete the state of a run whose result is saved."""
        remove_stream(self._state(result.policy, result.order, result.network))

    def describe(self) -> dict[str, Any]:
        """The settings that the runs share, as plain JSON: config, source, and origin of the preprocessing."""
        values = asdict(self.config)
        if self.config.memory_labels == "hard":
            del values["logit_weight"]
        values = {name: value for name, value in values.items() if name not in _OFF or value != _OFF[name]}
        network = self._recipe.network
        details = {name: value for name, value in values.items() if name not in ("mode", "network", *_TOLD)}
        return {
            "dataset": self.data.name,
            **{name: values[name] for name in _TOLD if name in values},
            "network": f"ConvNet of width {network.width}, {network.normalisation} normalisation",
            "preprocessing": self.streams.describe(),
            "details": {**details, **self._of_streams()},
        }

    def describe_memories(self) -> dict[str, Any]:
        """The settings that the sets in the folder depend on, as plain JSON; modes share the sets if these are equal."""
        return {**self.config.of_memories(), **self._of_streams()}

    def _of_streams(self) -> dict[str, Any]:
        return {
            "fingerprint": self.data.fingerprint,
            "network": asdict(self._recipe.network),
            "stored": [hashlib.sha256(held.images.numpy().tobytes()).hexdigest()[:16] for held in self._sets],
        }

    def _state(self, policy: str, order: int, network: int) -> Path:
        return self._folder / f"{file_stem(policy)}-{self.config.mode}-order{order}-network{network}.state"

    def _setup(
        self, policy: str, stream: Stream, network: int, on_distilled: Callable[[Any], None] | None
    ) -> PluginSetup:
        config = self.config
        options = MemoryOptions(
            mode=config.mode,
            ipc=config.ipc,
            recipe=config.recipe,
            distillation={**config.distillation, "network": config.network},
            memory_augmentation=config.memory_augmentation,
            stream_augmentation=config.stream_augmentation,
            finetune_steps=config.finetune_steps,
            labels=MemoryLabels(kind=config.memory_labels, weight=config.logit_weight),
            separate_normalisation=config.separate_normalisation,
            seed=config.seed,
            device=str(self.device),
        )
        return plugins_for(
            policy,
            stream,
            options,
            sets=self._sets,
            fresh=lambda step: self._network(network, step),
            on_progress=on_distilled,
        )

    def _network(self, network: int, *step: int) -> torch.nn.Module:
        built = self._recipe.network.build(
            self.data.image_shape,
            len(self.data.class_names),
            generator=generator_for(self.config.seed, "network", network, *step),
        )
        return built.to(memory_format=torch.channels_last)

    def _strategy(
        self, policy: str, setup: PluginSetup, order: int, network: int, on_epoch: Callable[[], object] | None
    ) -> Any:
        model = self._network(network)
        rates = {name: getattr(self.config, name) for name in ("lr", "momentum", "weight_decay")}
        template = JointTraining if policy == "joint" else Naive
        return template(
            model=model,
            optimizer=TrainConfig(**rates).build_optimizer(model),
            criterion=torch.nn.CrossEntropyLoss(),
            train_mb_size=self.config.batch_size,
            train_epochs=self.config.epochs,
            eval_mb_size=TEST_BATCH,
            device=self.device,
            plugins=[*setup.plugins, TrainingHooks((self.config.seed, "stream", order, network), on_epoch)],
            evaluator=EvaluationPlugin(accuracy_metrics(experience=True), loggers=[BaseLogger()]),
        )

    @contextmanager
    def _running(self, order: int, network: int) -> Iterator[None]:
        """Avalanche draws from the global generators: seed them for a run, and restore them after it."""
        with preserved_random_state(), long_work(self.device), quiet():
            seed = small_seed(self.config.seed, "stream", order, network)
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            yield

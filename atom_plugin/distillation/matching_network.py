"""The network that a run matches under: drawn anew, or taken from a few trained ones, and trained in between if asked to.

Three choices of :class:`~atom_plugin.distillation.config.DistillConfig` decide (defaults: a random network per iteration):

- ``network_state`` "random", or "trained:EPOCHS": each draw is one of ``network_pool`` networks trained on the real images
  (DataDAM's table 7). Such a network is trained when first drawn, and again after a resume, to the same bytes.
- ``pool``: each draw comes from a file of trained networks (:mod:`atom_plugin.models.network_pool`), in the ``network_state``
  "interpolated" or "random-epoch", or "around" the end of its training, ``network_radius`` away from it. A matcher of
  trajectories draws from the pool by itself ("trajectory").
- ``network_state`` "queue": each draw is one of networks that are trained on the real images meanwhile (:mod:`.network_queue`).
- ``inner_loop``: matching steps under one draw.
- ``network_epochs``: passes of training over the synthetic images after each of these steps but the last, as in DC's
  algorithm 1 (Zhao, Mopuri & Bilen, 2021), at ``network_lr`` and ``network_momentum``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from atom_plugin.datasets import SourceData
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.network_config import QUEUE, TRAJECTORY
from atom_plugin.distillation.network_queue import NetworkQueue
from atom_plugin.distillation.network_trainer import NetworkTrainer
from atom_plugin.errors import ConfigError, StoreError, shown
from atom_plugin.matchers import ImageMatcher, Matcher, MeanMatcher
from atom_plugin.matchers.set_matcher import SetMatcher
from atom_plugin.models.fitting import SGD, Course, check_loss
from atom_plugin.models.network_pool import NetworkPool, set_weights
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.transforms.preprocessing import Preprocessing

State = dict[str, Any]


def _checked_momenta(state: State, fresh: torch.optim.Optimizer) -> State:
    """The state of an optimiser that is made like ``fresh``, which sets its rates. ValueError for another optimiser's."""
    parameters = [parameter for group in fresh.param_groups for parameter in group["params"]]
    for number, held in state["state"].items():
        buffer = held["momentum_buffer"]
        if buffer is not None and (buffer.shape != parameters[number].shape or not bool(buffer.isfinite().all())):
            raise ValueError(f"the momentum of parameter {number} is {tuple(buffer.shape)}, or not finite")
    return {"state": state["state"], "param_groups": fresh.state_dict()["param_groups"]}


def _checked_weights(weights: object, network: nn.Module, *, needed: bool) -> torch.Tensor | None:
    """``weights`` (P,) of a drawn network, None if the run has none. Raises ValueError for any others."""
    count = sum(parameter.numel() for parameter in network.parameters())
    if weights is None and not needed:
        return None
    if not isinstance(weights, torch.Tensor) or weights.dtype != torch.float32 or tuple(weights.shape) != (count,):
        raise ValueError(
            f"its calibrating weights are {shown(getattr(weights, 'shape', weights))}, not float32 ({count},)"
        )
    return weights


def _checked_accuracy(value: object) -> float:
    """``value``, the accuracy of a drawn network. Raises ValueError if it is none."""
    if not isinstance(value, float) or not 0 <= value <= 1:
        raise ValueError(f"its accuracy is {shown(value)}, not a number from 0 to 1")
    return value


class MatchingNetwork(NetworkTrainer):
    """``network`` for matching: in evaluation mode except for batch normalisation, so that nothing in it is random.

    :meth:`prepare` and :meth:`advance` set its parameters, in place, for the given iteration.
    """

    def __init__(
        self, config: DistillConfig, data: SourceData, preprocessing: Preprocessing, device: torch.device
    ) -> None:
        super().__init__(config, data, preprocessing, device, model=config.matching_model)
        self._config = config
        self.pool = None if config.pool is None else NetworkPool.load(config.pool)
        if self.pool is not None:
            self.pool.check(
                *(config.network, data.image_shape, len(data.class_names)),
                fingerprint=data.fingerprint,
                preprocessing=preprocessing.describe(),
            )
        self._trained_here: dict[int, State] = {}
        self._optimizer: torch.optim.Optimizer | None = None
        queued = config.network_state == QUEUE
        self._queue = NetworkQueue(config, self, images=len(data.train)) if queued else None
        self.calibrating: torch.Tensor | None = None
        """The weights (P,) of the network that was drawn last, at the end of its training in a pool."""
        self.accuracy = 0.0
        """The accuracy of this network, in [0, 1]."""

    def prepare(self, iteration: int, generator: torch.Generator) -> None:
        """Draw a network if ``iteration``, from 0, begins a new inner loop."""
        if iteration % self._config.inner_loop or self._config.network_state == TRAJECTORY:
            return
        self._optimizer = None
        if self._queue is not None:
            drawn = self._queue.draw(iteration, generator)
            set_weights(self.network, drawn.weights)
            self.calibrating, self.accuracy = drawn.weights, drawn.accuracy
            return
        if self.pool is not None:
            index = self._draw_from(self.pool, self.network, generator)
            self.calibrating, self.accuracy = self.pool.end(index), self.pool.accuracies[index]
            return
        if not self._config.pretraining_epochs:
            self._redraw(self.network, generator)
            return
        index = int(torch.randint(self._config.pooled_networks, (1,), generator=generator))
        if index not in self._trained_here:
            self._trained_here[index] = self._trained(index)
        self.network.load_state_dict(self._trained_here[index])

    @contextmanager
    def as_drawn_in(self, iteration: int) -> Iterator[None]:
        """Within, the network is the one that ``iteration`` drew; then it is the current one again."""
        current = {name: value.clone() for name, value in self.network.state_dict().items()}
        held = self._optimizer, self.calibrating
        self.prepare(iteration, generator_for(self._config.seed, "iteration", iteration))
        try:
            yield
        finally:
            self.network.load_state_dict(current)
            self._optimizer, self.calibrating = held

    def draw_into(self, network: nn.Module, generator: torch.Generator) -> torch.Tensor | None:
        """Set ``network`` to the parameters of a draw, random or the pool's. Any thread may call it, on its own network.

        Returns the weights (P,) of the drawn network at the end of its training, None without a pool.
        """
        if self.pool is None:
            self._redraw(network, generator)
            return None
        return self.pool.end(self._draw_from(self.pool, network, generator))

    def _draw_from(self, pool: NetworkPool, network: nn.Module, generator: torch.Generator) -> int:
        """Set ``network`` to a draw from ``pool``; the index of the drawn network."""
        config = self._config
        index, weights = pool.draw(config.network_state, generator, radius=config.drawn_radius)
        set_weights(network, weights)
        return index

    def advance(self, iteration: int, images_of_all: Callable[[], torch.Tensor]) -> None:
        """Train on decoded images (K * ipc * factor^2, C, H, W), class-major, if iteration + 1 still uses this network; a queue
        trains on real ones.

        All processes of a run train it, on the same images, and continue with the first one's. Raises DivergenceError if the
        loss is no longer finite.
        """
        config, following = self._config, iteration + 1
        if self._queue is not None and following < config.iterations:
            self._queue.train(iteration)
        if not config.network_epochs or following % config.inner_loop == 0 or following == config.iterations:
            return
        fixed = images_of_all().detach()
        classes = len(self._data.class_names)
        labels = torch.arange(classes, device=fixed.device).repeat_interleave(len(fixed) // classes)
        if self._optimizer is None:
            self._optimizer = self._inner_sgd()
        course = Course(epochs=config.network_epochs, precision=config.precision)
        batches = self._batches(lambda rows: fixed[rows.to(fixed.device)], labels)
        loss = self._fit(batches, self._optimizer, course, generator_for(config.seed, "inner", iteration))
        check_loss(loss, "lower --network-lr")

    def state(self, iteration: int) -> State | None:
        """The state that :meth:`restore` needs before ``iteration``; None if the iteration draws, or draws again."""
        if self._queue is not None:
            return {"queue": self._queue.state()} if self._queue.networks else None
        if self._draws_in(iteration):
            return None
        return {
            "network": self.network.state_dict(),
            "optimizer": None if self._optimizer is None else self._optimizer.state_dict(),
            "calibrating": self.calibrating,
            "accuracy": self.accuracy,
        }

    def restore(self, state: State | None, iteration: int) -> None:
        """Continue from the result of :meth:`state` before ``iteration``. Raises StoreError for any other value."""
        if self._queue is not None and iteration > 0:
            self._queue.restore((state or {}).get("queue"))
            return
        if state is None and (self._draws_in(iteration) or iteration == self._config.iterations):
            return
        if state is None or not state.keys() >= {"network", "optimizer"}:
            raise StoreError(f"found no state of the network that iteration {iteration} continues with")
        try:
            self.network.load_state_dict(state["network"])
            self.calibrating = _checked_weights(state.get("calibrating"), self.network, needed=self.pool is not None)
            self.accuracy = _checked_accuracy(state.get("accuracy", 0.0))
            if state["optimizer"] is not None:
                self._optimizer = self._inner_sgd()
                self._optimizer.load_state_dict(_checked_momenta(state["optimizer"], self._optimizer))
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise StoreError(f"found the state of another network ({' '.join(str(error).split())[:200]})") from error

    def _draws_in(self, iteration: int) -> bool:
        """Whether a run that goes on with ``iteration`` can draw its network."""
        return self._config.drawn_in(iteration) % self._config.inner_loop == 0

    def _inner_sgd(self) -> torch.optim.Optimizer:
        config = self._config
        return SGD(lr=config.inner_lr, momentum=config.inner_momentum, weight_decay=0.0).over(self.network)

    def _trained(self, index: int) -> State:
        """The state of pool network ``index``, trained on the real images, kept on the CPU."""
        self.pretrain(self._config.pretraining_epochs, generator_for(self._config.seed, "pool", index))
        return {name: value.cpu().clone() for name, value in self.network.state_dict().items()}


def refuse_unmatched(config: DistillConfig, matcher: Matcher) -> None:
    """Raise ConfigError for choices about networks and layers that have no effect on ``matcher``."""
    maps = isinstance(matcher, MeanMatcher) and matcher.matched_maps(2) > 0
    if config.matching_layers and not maps and isinstance(matcher, MeanMatcher | ImageMatcher | SetMatcher):
        raise ConfigError(
            f"matching_layers have no effect on the matcher {config.matcher!r}, which compares no maps; leave them out"
        )
    trajectories = isinstance(matcher, SetMatcher) and matcher.uses_trajectories
    if (config.network_state == TRAJECTORY) != trajectories:
        raise ConfigError(
            f"found network_state {config.network_state!r} with the matcher {config.matcher!r}; only mtt matches "
            "trajectories, and it needs them: change one of the two"
        )
    if config.network_state == QUEUE and isinstance(matcher, SetMatcher):
        raise ConfigError(
            f"network_state queue has no effect on the matcher {config.matcher!r}, which draws networks by itself; leave it out"
        )
    if config.shares_real and not isinstance(matcher, MeanMatcher):
        raise ConfigError(
            f"share_real has no effect on the matcher {config.matcher!r}, which compares more than statistics of real images; "
            "leave it out, or choose a matcher such as atom, datadam or dm"
        )
    if getattr(matcher, "uses_network", True):
        return
    for name, usual in (("matching_model", "convnet"), ("network_state", "random")):
        if (given := getattr(config, name)) != usual:
            raise ConfigError(
                f"{name} ({given}) has no effect on the matcher {config.matcher!r}, which uses no network; leave it out"
            )

"""Several sets distilled at once from one real branch, for comparisons of matchers: the same sets as one by one.

In iteration i every run of one seed draws the same network, the same real batch and the same augmentation, whatever its
matcher and IPC. Passing the real batch through the network is most of a step; runs that differ in nothing that this depends
on share it. Five matchers at IPC 10 take about 1.8 times as long as one (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch

from atom_plugin.datasets import SourceData
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.distiller import Distiller
from atom_plugin.distillation.engine.comparison import real_statistics, synthetic_statistics
from atom_plugin.errors import ConfigError
from atom_plugin.matchers import MeanMatcher, Statistics
from atom_plugin.runtime import distributed
from atom_plugin.runtime.device import autocast
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing

# What a run's synthetic side alone depends on: runs may share a real branch though they differ in these.
OWN_CHOICES = frozenset(
    {"ipc", "recipe", "matcher", "matcher_options", "iterations"}
    | {"image_lr", "image_momentum", "image_schedule", "initialiser"}
)


def distill_jointly(
    configs: Sequence[DistillConfig],
    data: SourceData,
    *,
    device: str = "auto",
    preprocessing: Preprocessing | None = None,
    on_progress: Callable[[int, list[float]], None] | None = None,
) -> list[SyntheticSet]:
    """The sets of ``configs``, in order, each as :func:`~atom_plugin.distillation.loop.distill` gives it, within rounding.

    Configs may differ in matcher and its options, IPC, iterations, the images' learning rate, momentum, schedule and
    initialiser. ``on_progress`` is told the iteration, from 1, and the losses of the runs that are not done yet. Raises
    ConfigError for other differences, for matchers that are no MeanMatcher, and for networks that are trained on a run's
    own images; and what :func:`~atom_plugin.distillation.loop.distill` raises.
    """
    _check(configs)
    first = Distiller(configs[0], data, device=device, preprocessing=preprocessing)
    runs = [first] + [
        Distiller(config, data, device=device, preprocessing=first.preprocessing) for config in configs[1:]
    ]
    matchers = [_mean_matcher(run) for run in runs]
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(run.running())
        for iteration in range(max(config.iterations for config in configs)):
            open_runs = [
                (run, matcher) for run, matcher in zip(runs, matchers, strict=True) if iteration < run.config.iterations
            ]
            losses = _step(open_runs)
            if on_progress is not None:
                on_progress(iteration + 1, losses)
    return [run.synthetic_set() for run in runs]


def _step(runs: Sequence[tuple[Distiller, MeanMatcher]]) -> list[float]:
    leader = runs[0][0]
    network, classes = leader.network, leader.classes
    draw, real = leader.draw()
    real = real.contiguous(memory_format=torch.channels_last)
    with autocast(leader.device, leader.config.precision):
        targets = real_statistics([matcher for _, matcher in runs], network, real, groups=classes)
    losses = []
    for (run, matcher), target in zip(runs, targets, strict=True):

        def loss(synthetic: torch.Tensor, matcher: MeanMatcher = matcher, target: Statistics = target) -> torch.Tensor:
            images = synthetic.contiguous(memory_format=torch.channels_last)
            return matcher.compare(target, synthetic_statistics(matcher, network, images, groups=classes))

        losses.append(run.descend(draw, loss))
    return losses


def _check(configs: Sequence[DistillConfig]) -> None:
    if not configs:
        raise ConfigError("found no config to distil; give at least one")
    for config in configs:
        others = [line for line in configs[0].differences(config) if line.partition(":")[0] not in OWN_CHOICES]
        if others:
            raise ConfigError(f"runs that share their real branch must agree in all it depends on; found {others[0]}")
        if config.memory_budget is not None or distributed.count() > 1:
            raise ConfigError(
                "runs that share their real branch take all classes at once; leave memory_budget out, and in several "
                "processes give each whole runs (atom_plugin.runtime.distributed.alone)"
            )
        if config.network_epochs:
            raise ConfigError(
                f"network_epochs is {config.network_epochs}: each run would train the network on its own images; "
                "distil such runs one by one"
            )


def _mean_matcher(run: Distiller) -> MeanMatcher:
    if not isinstance(run.matcher, MeanMatcher):
        raise ConfigError(
            f"matcher {run.config.matcher!r} does not reduce to class means of descriptors, and cannot share a real "
            "branch; distil it by itself"
        )
    return run.matcher

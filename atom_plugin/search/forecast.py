"""Predict the work of a search: the operations of every candidate, and the time, from timing a few of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from atom_plugin.errors import AtomError
from atom_plugin.evaluation.training import TrainingRun, train
from atom_plugin.evaluation.training_recipes import TrainConfig
from atom_plugin.search.scores import SearchJob
from atom_plugin.search.space import Candidate
from atom_plugin.store.synthetic_set import SyntheticSet

PROBES = 7  # candidates that are timed
_IMAGES = 32  # of a probe's batch
_EPOCHS = 3  # of which the first, which allocates and chooses algorithms, is not timed
_TEST_SHARE = 1 / 3  # a forward pass is about a third of a step


def examine(
    candidates: Iterable[Candidate], image_shape: tuple[int, int, int], classes: int
) -> tuple[dict[str, int], dict[str, str]]:
    """By name, the floating-point operations of a candidate's forward pass for one image (C, H, W); and the reasons why
    candidates cannot take such images.
    """
    operations, reasons = {}, {}
    for candidate in candidates:
        try:
            operations[candidate.name] = _operations(candidate, image_shape, classes)
        except AtomError as error:
            reasons[candidate.name] = str(error)
    return operations, reasons


def _operations(candidate: Candidate, image_shape: tuple[int, int, int], classes: int) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    network = candidate.network.build(image_shape, classes, generator=torch.Generator()).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *image_shape))
    return max(1, int(counter.get_total_flops()))


def seconds_per_image(
    candidates: Sequence[Candidate],
    operations: Mapping[str, int],
    synthetic_set: SyntheticSet,
    training: TrainConfig,
    run: TrainingRun,
) -> dict[str, float]:
    """By name, the training seconds of a candidate per image shown, on images of the set.

    A few candidates are timed, from the cheapest to the most expensive; the others are interpolated by their operations, in
    logarithms. Empty if none can be trained.
    """
    ordered = sorted(candidates, key=lambda each: operations[each.name])
    places = np.linspace(0, len(ordered) - 1, min(PROBES, len(ordered))).round().astype(int)
    few = synthetic_set.at(slice(_IMAGES))
    timed: dict[int, float] = {}
    for candidate in [ordered[place] for place in places]:
        with contextlib.suppress(AtomError, ValueError, RuntimeError):  # the search itself tells what is wrong with it
            timed[operations[candidate.name]] = _timed(candidate, few, training, run)
    if not timed:
        return {}
    x, y = np.log(sorted(timed)), np.log([timed[each] for each in sorted(timed)])
    return {each.name: float(np.exp(np.interp(np.log(operations[each.name]), x, y))) for each in candidates}


def _timed(candidate: Candidate, few: SyntheticSet, training: TrainConfig, run: TrainingRun) -> float:
    moments: list[float] = []
    watched = replace(run, on_epoch=lambda _: moments.append(time.perf_counter()))
    train(few, candidate.network, replace(training, epochs=_EPOCHS), seed=0, run=watched)
    return (moments[-1] - moments[0]) / ((_EPOCHS - 1) * few.decoded_count)


def predicted_seconds(planned: Iterable[SearchJob], per_image: Mapping[str, float]) -> float:
    """The total time of the jobs, one after the other."""
    return sum(
        per_image[each.candidate.name] * (each.workload.passes + _TEST_SHARE * len(each.workload.subject.test))
        for each in planned
    )

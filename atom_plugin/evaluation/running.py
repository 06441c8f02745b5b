"""Run the jobs of an evaluation: a cell's networks one after the other, or several at once."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from atom_plugin.errors import AtomError, DivergenceError, ModelError, shape_text
from atom_plugin.evaluation import cuda_training
from atom_plugin.evaluation.jobs import EvaluationCell, EvaluationJob, Outcome, network_seed
from atom_plugin.evaluation.training import TrainingRun, accuracy, train, train_on_real
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.runtime.device import describe_hardware

_logger = logging.getLogger("atom_plugin")


def run_jobs(
    jobs: Iterable[EvaluationJob],
    *,
    device: torch.device,
    at_once: int | None = None,
    on_start: Callable[[EvaluationJob], object] | None = None,
    on_epoch: Callable[[int], object] | None = None,
    on_error: Callable[[AtomError], object] | None = None,
) -> Iterator[Outcome]:
    """Run jobs, cell by cell, and yield each outcome when it is done.

    If a network fails with an AtomError (a model that cannot take the images, a loss that diverges), its cell ends with that
    error as the last outcome, and the other cells continue; networks trained together with it are kept. ``on_error`` is called
    with the error itself and its cause. The other arguments are as in :func:`train_cell`.
    """
    for _, group in itertools.groupby(jobs, key=lambda job: id(job.cell)):
        left = list(group)
        try:
            for outcome in train_cell(left, device=device, at_once=at_once, on_start=on_start, on_epoch=on_epoch):
                left = [job for job in left if job is not outcome.job]
                yield outcome
        except AtomError as error:
            if on_error is not None:
                on_error(error)
            yield Outcome(job=left[0], error=str(error))


def train_cell(
    jobs: Sequence[EvaluationJob],
    *,
    device: torch.device,
    at_once: int | None = None,
    on_start: Callable[[EvaluationJob], object] | None = None,
    on_epoch: Callable[[int], object] | None = None,
) -> Iterator[Outcome]:
    """Train the networks of one cell: one after the other, or several at once if that is faster
    (:mod:`atom_plugin.evaluation.cuda_training`).

    ``at_once`` is the largest number at once, None for as many as fit in memory; a kill loses those that are running.
    ``on_start`` is called before networks, with the first of them; ``on_epoch`` after each epoch of each network. Raises
    ModelError if a model cannot be trained on the images or does not fit in memory, DivergenceError if a loss diverges, after
    the outcomes of the networks trained together with it.
    """
    cell, hardware = jobs[0].cell, describe_hardware(device)
    most = _networks_at_once(cell, device)
    several = most if at_once is None else min(most, at_once)
    for first in range(0, len(jobs), several):
        group = jobs[first : first + several]
        if on_start is not None:
            on_start(group[0])
        started = time.perf_counter()
        with _explained(cell):
            networks = _trained(cell, group, device, on_epoch)
        training = (time.perf_counter() - started) / len(group)
        for job, network in zip(group, networks, strict=True):
            if isinstance(network, DivergenceError):
                continue
            started = time.perf_counter()
            with _explained(cell):
                reached = accuracy(network, cell.subject.synthetic_set.preprocessing, cell.subject.test, device=device)
            seconds = training + time.perf_counter() - started
            yield Outcome(job=job, accuracy=reached, seconds=seconds, hardware=hardware)
        if blown_up := [network for network in networks if isinstance(network, DivergenceError)]:
            raise blown_up[0]


def train_one(
    job: EvaluationJob, *, device: torch.device, on_epoch: Callable[[int], object] | None = None
) -> nn.Module:
    """The network of ``job``, trained but not tested. Raises as :func:`train_cell`."""
    with _explained(job.cell):
        (network,) = _trained(job.cell, [job], device, on_epoch)
    if isinstance(network, DivergenceError):
        raise network
    return network


@contextmanager
def _explained(cell: EvaluationCell) -> Iterator[None]:
    """Within: errors that other libraries' networks raise only in training (a batch of one under batch normalisation), and too
    little memory, become ModelErrors.

    Other errors under this package's ConvNet pass through, since they are bugs.
    """
    foreign = not isinstance(cell.network, ConvNetConfig)
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if not (foreign or isinstance(error, torch.OutOfMemoryError)):
            raise
        size = shape_text(cell.subject.synthetic_set.preprocessing.image_shape)
        reason = " ".join(str(error).split())[:200] or "without a message"
        raise ModelError(
            f"{cell.model} cannot be trained and tested on {len(cell.subject)} images of {size}, "
            f"{cell.training.batch_size} a batch ({type(error).__name__}: {reason}); choose another model or --batch-size"
        ) from error


def _networks_at_once(cell: EvaluationCell, device: torch.device) -> int:
    network = cell.network
    if not isinstance(network, ConvNetConfig) or not _stacks(cell, device):
        return 1
    return cuda_training.most_at_once(network, cell.training, cell.subject.synthetic_set, device)


def _stacks(cell: EvaluationCell, device: torch.device) -> bool:
    """Whether networks use :mod:`atom_plugin.evaluation.cuda_training`; a single one gains too, since its step is one graph."""
    return not cell.subject.full and cuda_training.suits(cell.network, cell.training, device)


def _trained(
    cell: EvaluationCell, jobs: Sequence[EvaluationJob], device: torch.device, on_epoch: Callable[[int], object] | None
) -> Sequence[nn.Module | DivergenceError]:
    subject, seeds = cell.subject, [network_seed(job.seed, job.repeat) for job in jobs]
    run = TrainingRun(device=device, precision=cell.precision, on_epoch=on_epoch)
    if isinstance(cell.network, ConvNetConfig) and _stacks(cell, device):
        # Not every cuDNN has the grouped convolutions that several at once need; one alone has none, and still its graph.
        for size, instead in ((len(seeds), "each in a graph of its own"), (1, "in turn")):
            together = replace(run, on_epoch=_times(on_epoch, size))
            try:
                return _trained_in_graphs(cell.network, cell, seeds, size, together)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                reason = str(error).partition("\n")[0]
                _logger.warning("networks train %s, not %d together (%s)", instead, size, reason)
    if subject.real is None:
        return [train(subject.synthetic_set, cell.network, cell.training, seed=seed, run=run) for seed in seeds]
    return [train_on_real(subject.real, subject.synthetic_set, cell.network, cell.training, seed=seeds[0], run=run)]


def _trained_in_graphs(
    network: ConvNetConfig, cell: EvaluationCell, seeds: Sequence[int], size: int, run: TrainingRun
) -> Sequence[nn.Module | DivergenceError]:
    """``size`` networks at once."""
    trained: list[nn.Module | DivergenceError] = []
    for first in range(0, len(seeds), size):
        own = seeds[first : first + size]
        sets = [cell.subject.synthetic_set] * len(own)
        trained += cuda_training.train_together(sets, network, cell.training, seeds=own, run=run)
    return trained


def _times(on_epoch: Callable[[int], object] | None, networks: int) -> Callable[[int], object] | None:
    """Count an epoch of ``networks`` at once as that many epochs."""
    if on_epoch is None:
        return None

    def each(epoch: int) -> None:
        for _ in range(networks):
            on_epoch(epoch)

    return each

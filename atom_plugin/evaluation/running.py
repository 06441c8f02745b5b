"""What runs the jobs of an evaluation: a cell's networks one after the other, or several at once."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypedDict

import torch
from torch import nn

from atom_plugin import together
from atom_plugin.device import describe_hardware
from atom_plugin.errors import AtomError
from atom_plugin.evaluation.jobs import Cell, Job, Outcome, network_seed
from atom_plugin.networks import ConvNetConfig
from atom_plugin.training import accuracy, train, train_on_real


def run_jobs(
    jobs: Iterable[Job],
    *,
    device: torch.device,
    on_start: Callable[[Job], object] | None = None,
    on_epoch: Callable[[int], object] | None = None,
) -> Iterator[Outcome]:
    """Run jobs, those of a cell together, and yield each outcome as it comes.

    Where a network fails with an AtomError (a model that cannot take the images, a loss that blows up), its cell ends there,
    with that error as the last outcome, and the others go on.
    """
    for _, group in itertools.groupby(jobs, key=lambda job: id(job.cell)):
        of_cell = list(group)
        done = 0
        try:
            for outcome in train_cell(of_cell, device=device, on_start=on_start, on_epoch=on_epoch):
                done += 1
                yield outcome
        except AtomError as error:
            yield Outcome(job=of_cell[done], error=str(error))


def train_cell(
    jobs: Sequence[Job],
    *,
    device: torch.device,
    on_start: Callable[[Job], object] | None = None,
    on_epoch: Callable[[int], object] | None = None,
) -> Iterator[Outcome]:
    """Networks of one cell: one after the other, or several at once where that is faster (:mod:`atom_plugin.together`)."""
    cell, hardware = jobs[0].cell, describe_hardware(device)
    at_once = _networks_at_once(cell, device)
    for first in range(0, len(jobs), at_once):
        group = jobs[first : first + at_once]
        if on_start is not None:
            on_start(group[0])
        started = time.perf_counter()
        networks = _trained(cell, group, device, on_epoch)
        training = (time.perf_counter() - started) / len(group)
        for job, network in zip(group, networks, strict=True):
            started = time.perf_counter()
            reached = accuracy(network, cell.subject.synthetic_set.preprocessing, cell.subject.test, device=device)
            seconds = training + time.perf_counter() - started
            yield Outcome(job=job, accuracy=reached, seconds=seconds, hardware=hardware)


def _networks_at_once(cell: Cell, device: torch.device) -> int:
    network, training = cell.network, cell.training
    if cell.subject.full or not isinstance(network, ConvNetConfig) or not together.suits(network, training, device):
        return 1
    return together.most_at_once(network, training, cell.subject.synthetic_set, device)


def _trained(
    cell: Cell, jobs: Sequence[Job], device: torch.device, on_epoch: Callable[[int], object] | None
) -> Sequence[nn.Module]:
    subject, seeds = cell.subject, [network_seed(job.seed, job.repeat) for job in jobs]
    how = _How(device=device, precision=cell.precision, on_epoch=on_epoch)
    if len(jobs) > 1 and isinstance(cell.network, ConvNetConfig):
        return together.train_together(
            [subject.synthetic_set] * len(jobs), cell.network, cell.training, seeds=seeds, **how
        )
    if subject.real is None:
        return [train(subject.synthetic_set, cell.network, cell.training, seed=seeds[0], **how)]
    preprocessing, classes = subject.synthetic_set.preprocessing, len(subject.synthetic_set.class_names)
    return [train_on_real(subject.real, preprocessing, classes, cell.network, cell.training, seed=seeds[0], **how)]


class _How(TypedDict):
    device: torch.device
    precision: str
    on_epoch: Callable[[int], object] | None

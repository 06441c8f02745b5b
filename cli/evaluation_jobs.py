"""The jobs of ``atom-cli consume evaluate``: list them, divide them among processes, and show progress."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atom_plugin.cli.interrupts import explaining_how_to_resume

if TYPE_CHECKING:
    import torch

    from atom_plugin.datasets import SourceRequest
    from atom_plugin.errors import AtomError
    from atom_plugin.evaluation import EvaluationCell, EvaluationJob, NetworkResultsFile, Outcome
    from atom_plugin.evaluation.training_recipes import TrainConfig


def plan(
    files: Sequence[Path],
    dataset: str | None,
    request: SourceRequest,
    trainings: Sequence[TrainConfig],
    options: dict[str, Any],
) -> list[EvaluationJob]:
    """The networks of all ``options["models"]`` on all ``files``, and with ``options["full"]`` on all real images.

    Each is trained with all ``trainings``.
    """
    from atom_plugin import store
    from atom_plugin.evaluation import Subject, check_validation_parts, full_subjects, load_test_sources, plan_jobs
    from atom_plugin.runtime.progress import phase

    names, on = list(map(str, files)), options["on"]
    with phase(f"reading {len(files)} set(s)"):
        sets = [store.read(file) for file in files]
    sources = load_test_sources(names, sets, dataset, request)
    if on == "validation":
        check_validation_parts(names, sources)
    subjects = [
        Subject(name=name, synthetic_set=held, test=getattr(source, on), tested_on=source.fingerprint, on=on)
        for name, held, source in zip(names, sets, sources, strict=True)
    ]
    how = {name: options[name] for name in ("normalisation", "seed", "precision")}
    jobs = plan_jobs(subjects, options["models"], trainings, repeats=options["repeats"], **how)
    if options["full"]:
        longer = [replace(training, epochs=options["full_epochs"]) for training in trainings]
        whole = full_subjects(subjects, sources)
        jobs += plan_jobs(whole, options["models"], longer, repeats=options["full_repeats"], **how)
    return jobs


def run(
    jobs: Sequence[EvaluationJob],
    finished: NetworkResultsFile | None,
    device: torch.device,
    *,
    quiet: bool,
    name_of: Callable[[EvaluationCell], str] = attrgetter("model"),
) -> list[Outcome]:
    """The outcomes in the order of the jobs. Jobs already in the file, and duplicates, do not run.

    ``name_of`` gives the name of a cell's networks in messages.

    Processes divide the other jobs among themselves and all get all outcomes. With a file, networks train one at a time on any
    device, so that a kill loses only the current one.
    """
    from atom_plugin.evaluation import Outcome, run_jobs
    from atom_plugin.runtime import distributed, rendezvous
    from atom_plugin.runtime.progress import progress_bar

    outcomes: dict[str, Outcome] = {}
    pending: dict[str, EvaluationJob] = {}
    for job in jobs:
        if finished is not None and (held := finished.outcome_of(job)) is not None:
            outcomes[job.key] = held
        else:
            pending.setdefault(job.key, job)
    rendezvous.barrier()  # all have read the results file before one writes to it
    own = distributed.share(list(pending.values()))
    total = sum(job.cell.training.epochs for job in own)
    compared = len({job.cell.training.augmentation for job in jobs}) > 1
    where = partial(_where, name_of, compared)
    reached: list[tuple[str, dict[str, Any]]] = []

    resumable = (
        nullcontext() if finished is None else explaining_how_to_resume(partial(_resume_hint, finished.path, jobs))
    )
    with resumable, progress_bar(total, hidden=quiet or not distributed.leads(), unit="epoch") as bar:
        each = run_jobs(
            own,
            device=device,
            at_once=None if finished is None else 1,
            on_start=partial(_tell, bar, where),
            on_epoch=lambda _: bar.update(),
            on_error=_show_cause,
        )
        for outcome in each:
            outcomes[outcome.job.key] = outcome
            reached.append((outcome.job.key, outcome.plain()))
            if outcome.error is not None:
                # Why stands in what the command prints in the end, and is not said twice.
                failed = sum(each.error is not None for each in outcomes.values())
                bar.set_postfix_str(f"{failed} failed")
            elif finished is not None:
                finished.append(outcome)
        for key, values in rendezvous.collected(reached):
            outcomes[key] = Outcome(job=pending[key], **values)
    return [replace(outcomes[job.key], job=job) for job in jobs if job.key in outcomes]


def _resume_hint(path: Path, jobs: Sequence[EvaluationJob]) -> str:
    """Counts the results in the file, since other processes also write it and the signal may come just after a line."""
    from atom_plugin.evaluation import NetworkResultsFile

    held, distinct = NetworkResultsFile(path), {job.key: job for job in jobs}
    done = sum(held.accuracy_of(job) is not None for job in distinct.values())
    return (
        f"Stopped after {done} of {len(distinct)} networks; run the same command to continue (results so far: {path})"
    )


def _where(name_of: Callable[[EvaluationCell], str], compared: bool, cell: EvaluationCell, name: str) -> str:
    """The model and its set's ``name``, and the augmentation if several are ``compared``."""
    from atom_plugin.evaluation.results import augmentation_name

    words = f"{name_of(cell)} on {name}"
    return f"{words}, augmentation {augmentation_name(cell.training)}" if compared else words


def _tell(bar: Any, where: Callable[[EvaluationCell, str], str], job: EvaluationJob) -> None:
    bar.set_description(f"{where(job.cell, Path(job.cell.subject.name).name)}, {job.repeat + 1}")


def _show_cause(error: AtomError) -> None:
    """With --debug, print the traceback: a failed network does not stop the command, but may be a bug."""
    from atom_plugin.cli.main import Session

    session = click.get_current_context().find_object(Session)
    if session is not None and session.debug:
        traceback.print_exception(error)

"""Evaluate a set as the papers do: train new networks on it, test them on real images, report the last epoch."""

from __future__ import annotations

from collections.abc import Callable

from atom_plugin.datasets import Split
from atom_plugin.errors import require
from atom_plugin.evaluation.architectures import CONVNET, NamedModel, Network, network_for, network_of
from atom_plugin.evaluation.jobs import (
    EvaluationCell,
    EvaluationJob,
    Outcome,
    Subject,
    full_subjects,
    network_seed,
    plan_jobs,
)
from atom_plugin.evaluation.results import Evaluation, summarise_networks
from atom_plugin.evaluation.results_file import NetworkResultsFile
from atom_plugin.evaluation.running import run_jobs, train_cell
from atom_plugin.evaluation.test_images import (
    check_test_source,
    check_validation_parts,
    find_test_source,
    load_test_sources,
)
from atom_plugin.evaluation.training_recipes import TrainConfig
from atom_plugin.runtime.device import resolve_device, resolve_precision
from atom_plugin.store.synthetic_set import SyntheticSet

__all__ = [
    "CONVNET",
    "Evaluation",
    "EvaluationCell",
    "EvaluationJob",
    "NamedModel",
    "Network",
    "NetworkResultsFile",
    "Outcome",
    "Subject",
    "check_test_source",
    "check_validation_parts",
    "evaluate",
    "find_test_source",
    "full_subjects",
    "load_test_sources",
    "network_for",
    "network_of",
    "network_seed",
    "plan_jobs",
    "run_jobs",
    "summarise_networks",
    "train_cell",
]


# The façade: a call says what it changes, and needs no second object for a seed or a device.
def evaluate(
    synthetic_set: SyntheticSet,
    test: Split,
    config: TrainConfig,
    *,
    model: str = CONVNET,
    normalisation: str | None = None,
    repeats: int = 5,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    tested_on: str = "",
    on: str = "test",
    finished: NetworkResultsFile | None = None,
    on_epoch: Callable[[], object] | None = None,
) -> Evaluation:
    """Train ``repeats`` new networks on the set and test each. Network r of seed s is the same for every set.

    ``model`` and ``normalisation`` are as in :func:`network_for`. Networks in ``finished`` are taken from it, others are added
    to it when done; ``tested_on`` is the fingerprint of the source of ``test``, and ``on`` is the part of its images
    (:class:`Subject`), which identify them there. Raises ConfigError if the model cannot take the images, DivergenceError if a
    loss diverges.
    """
    require("synthetic_set", synthetic_set, SyntheticSet)
    require("test", test, Split)
    require("config", config, TrainConfig)
    where = resolve_device(device)
    subject = Subject(name="the set", synthetic_set=synthetic_set, test=test, tested_on=tested_on, on=on)
    jobs = plan_jobs(
        [subject],
        [model],
        config,
        normalisation=normalisation,
        repeats=repeats,
        seed=seed,
        precision=resolve_precision(precision, where),
    )
    each_epoch = None if on_epoch is None else lambda _: on_epoch()
    held = {job: finished.accuracy_of(job) for job in jobs} if finished is not None else {}
    missing = [job for job in jobs if held.get(job) is None]
    outcomes = {job: Outcome(job=job, accuracy=accuracy) for job, accuracy in held.items() if accuracy is not None}
    for outcome in train_cell(missing, device=where, on_epoch=each_epoch) if missing else ():
        outcomes[outcome.job] = outcome
        if finished is not None:
            finished.append(outcome)
    (evaluation,) = summarise_networks(outcomes[job] for job in jobs)
    return evaluation

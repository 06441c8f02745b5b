"""An evaluation as a list of independent jobs, one network each."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from atom_plugin.datasets import SourceData, Split
from atom_plugin.errors import ConfigError, listed
from atom_plugin.evaluation.architectures import Network, network_for, network_of
from atom_plugin.evaluation.targets import HARD, check_effect, label_words
from atom_plugin.evaluation.training_recipes import TrainConfig
from atom_plugin.store.synthetic_set import SyntheticSet

PARTS = ("test", "validation")  # of a source's images, what accuracy may be measured on
FULL = "full"  # the method of rows whose networks saw all real images


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """The training data of networks, called ``name`` in results, and the real images ``test`` for their test.

    With ``real`` networks train on those, with the set's preprocessing, instead of the set. ``tested_on`` is the fingerprint of
    the source of both, ``on`` is the part of its images in ``test``: one of :data:`PARTS`. ``part`` distinguishes ``real`` from
    other selections of that source's images; "" is all of its training images.
    """

    name: str
    synthetic_set: SyntheticSet
    test: Split
    tested_on: str
    on: str = "test"
    real: Split | None = None
    part: str = ""

    def __len__(self) -> int:
        """The number of images that a network sees: for a packed set its tiles."""
        return self.synthetic_set.decoded_count if self.real is None else len(self.real)

    @property
    def full(self) -> bool:
        """Whether networks see real images instead of the set."""
        return self.real is not None

    @property
    def method(self) -> str:
        """The method that made the images: a matcher, a selection, or "full"."""
        return FULL if self.full else self.synthetic_set.provenance.method

    @property
    def ipc(self) -> int | None:
        """Images per class; None for all real images."""
        return None if self.full else self.synthetic_set.ipc

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 of everything that a network learns from: images, labels including soft ones, and preprocessing; not the
        origin.
        """
        sha = hashlib.sha256()
        preprocessing, whitening = self.synthetic_set.preprocessing, self.synthetic_set.preprocessing.whitening
        parts = [preprocessing.mean, preprocessing.std]
        if whitening is not None:
            parts += [whitening.mean, whitening.matrix]
        if self.full:
            sha.update(f"{FULL} {self.tested_on}{self.part and f' {self.part}'}".encode())
        else:
            parts += [self.synthetic_set.images, self.synthetic_set.labels]
            if (soft := self.synthetic_set.soft_labels) is not None:
                sha.update(soft.kind.encode())
                parts.append(soft.values)
            if self.synthetic_set.factor > 1:
                parts.append(self.synthetic_set.labels.new_tensor(self.synthetic_set.factor))
        for part in parts:
            array = part.cpu().contiguous().numpy()
            sha.update(f"{array.dtype.str} {array.shape}\n".encode())
            sha.update(array.tobytes())
        return sha.hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationCell:
    """One cell of the table: networks of one architecture, with one training on one subject."""

    subject: Subject
    model: str
    network: Network
    training: TrainConfig
    precision: str

    @property
    def labels(self) -> str:
        """The kind of labels that networks learn, as text."""
        return HARD if self.subject.full else label_words(self.subject.synthetic_set, self.training)

    @property
    def _trained_on(self) -> str:
        """The training data's fingerprint; with the set's own learning rate if the training uses it."""
        rate = self.subject.synthetic_set.learned_lr if self.training.learned_lr else None
        return self.subject.fingerprint if rate is None else f"{self.subject.fingerprint} at {rate!r}"

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Plain JSON values that determine the result together with the seed. Hardware and versions are not included."""
        return {
            "trained_on": self._trained_on,
            "full": self.subject.full,
            "tested_on": self.subject.tested_on,
            "on": self.subject.on,
            "model": self.model,
            "network": asdict(self.network),
            "training": self.training.to_json(),
            "precision": self.precision,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationJob:
    """One network: number ``repeat`` of a cell."""

    cell: EvaluationCell
    seed: int
    repeat: int

    @property
    def identity(self) -> dict[str, Any]:
        """Plain JSON values: jobs with equal values train the same network."""
        return {**self.cell.identity, "seed": self.seed, "repeat": self.repeat}

    @property
    def key(self) -> str:
        """The identity as text."""
        return json.dumps(self.identity, sort_keys=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """The outcome of a job: an accuracy in [0, 1] after ``seconds``, or the error that ended it."""

    job: EvaluationJob
    accuracy: float | None = None
    seconds: float = 0.0
    hardware: str = ""
    error: str | None = None

    def plain(self) -> dict[str, Any]:
        """Everything except the job: plain values, for another process that has the job."""
        return {"accuracy": self.accuracy, "seconds": self.seconds, "hardware": self.hardware, "error": self.error}


def full_subjects(subjects: Sequence[Subject], sources: Sequence[SourceData]) -> list[Subject]:
    """All training images of the subjects' ``sources``, once for every preprocessing and ConvNet among the subjects.

    Held-out validation images are not included. If a source's images have several preprocessings, their names include it.
    """
    full: dict[str, Subject] = {}
    alike: dict[str, dict[str, Subject]] = {}  # by name and fingerprint, the subject that had them first
    for subject, source in zip(subjects, sources, strict=True):
        images = "all images" if source.validation is None else "all but validation images"
        whole = replace(subject, name=f"{source.name}, {images}", real=source.train)
        full.setdefault(f"{whole.fingerprint} {network_of(subject.synthetic_set)}", whole)
        alike.setdefault(whole.name, {}).setdefault(whole.fingerprint, subject)
    return [replace(whole, name=_told_apart(whole, alike[whole.name])) for whole in full.values()]


def _told_apart(whole: Subject, alike: Mapping[str, Subject]) -> str:
    """The name, with the difference from others of that name: the preprocessing, or else the first set that has it."""
    if len(alike) == 1:
        return whole.name
    words = [subject.synthetic_set.preprocessing.describe() for subject in alike.values()]
    own = whole.synthetic_set.preprocessing.describe()
    return f"{whole.name}, {own if words.count(own) == 1 else f'as for {alike[whole.fingerprint].name}'}"


# Seven parameters: the names are those of `evaluate`, which hands them on.
def plan_jobs(
    subjects: Sequence[Subject],
    models: Sequence[str],
    training: TrainConfig | Sequence[TrainConfig],
    *,
    normalisation: str | None = None,
    repeats: int = 5,
    seed: int = 0,
    precision: str = "float32",
) -> list[EvaluationJob]:
    """Every network of an evaluation, cell by cell: ``repeats`` of each model on each subject.

    With several trainings each model is trained in each way, from the same seeds. Equal networks on all real images of two
    subjects are trained once; real images have only hard labels. Raises ConfigError for less than one repeat, an unknown model,
    a model or training named twice, a normalisation that no model has, labels that no set has, a subject without images, or two
    equal sets.
    """
    if repeats < 1:
        raise ConfigError(f"repeats must be at least 1, not {repeats}")
    if twice := [name for name in models if models.count(name) > 1]:
        raise ConfigError(f"found the model {twice[0]!r} twice, expected each once; leave one out")
    trainings = [training] if isinstance(training, TrainConfig) else list(training)
    if same := [each for each in trainings if trainings.count(each) > 1]:
        named = f"recipe {same[0].recipe!r} with augmentation {same[0].augmentation!r}"
        raise ConfigError(f"found the training by {named} twice, expected each once; leave one out")
    if empty := [subject.name for subject in subjects if not len(subject)]:
        raise ConfigError(f"{empty[0]}: has no images, expected at least one to train on; leave it out")
    check_distinct(subjects)
    if sets := [subject.synthetic_set for subject in subjects if not subject.full]:
        for each in trainings:
            check_effect(each, sets)
    cells = [
        EvaluationCell(
            subject=subject,
            model=model,
            network=network_for(model, subject.synthetic_set, normalisation),
            training=each.on_classes() if subject.full else each,
            precision=precision,
        )
        for subject in subjects
        for model in models
        for each in trainings
    ]
    if normalisation is not None and all(cell.network.normalisation is None for cell in cells):
        raise ConfigError(
            f"normalisation ({normalisation}) has no effect: {listed(models)} offer no choice; leave it out"
        )
    distinct: dict[str, EvaluationCell] = {}
    for cell in cells:
        distinct.setdefault(json.dumps([cell.identity, not cell.subject.full and cell.subject.name]), cell)
    return [
        EvaluationJob(cell=cell, seed=seed, repeat=repeat)
        for cell, repeat in itertools.product(distinct.values(), range(repeats))
    ]


def check_distinct(subjects: Sequence[Subject]) -> None:
    """Raise ConfigError for two equal sets.

    A deterministic selection gives equal sets for different seeds: pooling them would count one set several times.
    """
    held: dict[tuple[str, Network], str] = {}
    for subject in subjects:
        key = subject.fingerprint, network_of(subject.synthetic_set)
        if key in held:
            raise ConfigError(f"{held[key]} and {subject.name} have the same images; name them once")
        held[key] = subject.name


def network_seed(seed: int, repeat: int) -> int:
    """The seed of the ``repeat``-th network of an evaluation, the same for every set."""
    return seed * 1_000_003 + repeat

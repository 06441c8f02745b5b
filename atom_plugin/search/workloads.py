"""The training data of a search's candidates: proxies, which are cheap, and the reference that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from atom_plugin.datasets import SourceData
from atom_plugin.distillation.select_config import SelectConfig
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.distillation.set_config import METHODS
from atom_plugin.errors import ConfigError, unknown
from atom_plugin.evaluation import Subject
from atom_plugin.evaluation.jobs import check_distinct
from atom_plugin.evaluation.training_recipes import TrainConfig
from atom_plugin.search.parts import stratified_part, with_validation
from atom_plugin.store.synthetic_set import SyntheticSet

EARLY_STOPPING = "early-stopping"
PROXIES = (*METHODS, EARLY_STOPPING)
"""The proxies that a search makes itself, besides sets."""

REFERENCE = "reference"


@dataclass(frozen=True, kw_only=True, eq=False)
class Workload:
    """``repeats`` networks of every candidate are trained on ``subject`` with ``training``, and tested on its images.

    ``stored`` is the number of images that must be kept for that; ``seed`` is the networks'.
    """

    name: str
    subject: Subject
    training: TrainConfig
    stored: int
    seed: int
    repeats: int = 1

    @property
    def passes(self) -> int:
        """Images that one network is shown, with repetitions."""
        return len(self.subject) * self.training.epochs


@dataclass(frozen=True, kw_only=True)
class ProxyPlan:
    """The proxies that a search makes besides its sets, by name, and the training of all; ``repeats`` networks each."""

    names: Sequence[str]
    training: TrainConfig
    repeats: int = 1
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        if odd := [name for name in self.names if name not in PROXIES]:
            raise ConfigError(f"{unknown('proxy', odd[0], PROXIES)}; sets are named as files")


def proxies(sets: Sequence[tuple[str, SyntheticSet]], source: SourceData, plan: ProxyPlan) -> list[Workload]:
    """The sets, each under its name, and for every number of images per class among them the proxies of ``plan``.

    All are tested on the validation images of ``source``. Selected images have the preprocessing of the first set of their
    size. Raises ConfigError for two equal sets and for a source without validation images, and the errors of
    :func:`~atom_plugin.distillation.selected_set.selected_set`.
    """
    sets = [(name, held_set.with_class_labels("an architecture search")) for name, held_set in sets]
    found = [_on_set(name, held_set, source, plan) for name, held_set in sets]
    models = {each.ipc: each for _, each in reversed(sets)}
    for ipc in dict.fromkeys(each.ipc for _, each in sets):
        for name in plan.names:
            found.append(_made(name, models[ipc], source, plan))
    check_distinct([each.subject for each in found if not each.subject.full])
    return found


def reference(
    like: SyntheticSet, source: SourceData, *, epochs: int, ipc: int | None = None, seed: int = 0
) -> Workload:
    """Training on all remaining images, or on ``ipc`` of each class, by the recipe ``standard``, with the preprocessing of
    ``like``. Its networks start from other weights than those on proxies, so that their random effects are independent.
    """
    subject, count = _on_real("all images", like, source), len(source.train)
    if ipc is not None:
        count = min(count, ipc * len(source.class_names))
        subject = _part_of(subject, f"{count} images", count, seed)
    training = TrainConfig.from_recipe("standard", epochs=epochs)
    return Workload(name=REFERENCE, subject=subject, training=training, stored=count, seed=seed + 1)


def everything(reference: Workload, source: SourceData) -> Workload:
    """The reference with the validation images added to the training images, tested on the test images."""
    subject = replace(
        reference.subject,
        name="everything",
        real=with_validation(source),
        test=source.test,
        on="test",
        part="with validation images",
    )
    return replace(reference, name="everything", subject=subject, stored=len(subject))


def _on_set(name: str, held_set: SyntheticSet, source: SourceData, plan: ProxyPlan) -> Workload:
    subject = _tested(name, held_set, source)
    return Workload(
        name=name,
        subject=subject,
        training=plan.training,
        stored=len(held_set),
        seed=plan.seed,
        repeats=plan.repeats,
    )


def _made(name: str, like: SyntheticSet, source: SourceData, plan: ProxyPlan) -> Workload:
    """The proxy ``name`` with as many images, or as much training, as the set ``like`` has."""
    if name == EARLY_STOPPING:
        return _early_stopping(like, source, plan)
    shape = source.image_shape
    how: dict[str, Any] = {"method": name, "seed": plan.seed, "precision": plan.precision}
    config = SelectConfig.from_recipe("atom", ipc=like.ipc, image_shape=shape, **how)
    chosen = selected_set(config, source, preprocessing=like.preprocessing, device=plan.device)
    return _on_set(f"{name} IPC {like.ipc}", chosen, source, plan)


def _early_stopping(like: SyntheticSet, source: SourceData, plan: ProxyPlan) -> Workload:
    """Training on the real images that stops when a network has been shown as many images as on the set: equal work and time.

    That may be after a part of the first epoch.
    """
    name, train = f"{EARLY_STOPPING} IPC {like.ipc}", source.train
    shown = len(_tested(name, like, source)) * plan.training.epochs
    subject, epochs = _on_real(name, like, source), max(1, round(shown / len(train)))
    if shown < len(train):
        subject = _part_of(subject, name, shown, plan.seed)
    training = TrainConfig.from_recipe("standard", epochs=epochs)
    return Workload(
        name=name,
        subject=subject,
        training=training,
        stored=len(train),
        seed=plan.seed,
        repeats=plan.repeats,
    )


def _on_real(name: str, like: SyntheticSet, source: SourceData) -> Subject:
    return replace(_tested(name, like, source), real=source.train)


def _tested(name: str, held_set: SyntheticSet, source: SourceData) -> Subject:
    if source.validation is None:
        raise ConfigError(f"{source.name}: no validation images are held out; load it with a validation part")
    where: dict[str, Any] = {"test": source.validation, "tested_on": source.fingerprint, "on": "validation"}
    return Subject(name=name, synthetic_set=held_set, **where)


def _part_of(subject: Subject, name: str, count: int, seed: int) -> Subject:
    assert subject.real is not None
    real = stratified_part(subject.real, count, seed=seed)
    return replace(subject, name=name, real=real, part=f"{count} seed {seed}")

"""Accuracies of networks: one result per set and architecture, and one over all sets that differ only in their seed."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from atom_plugin.distillation.select_config import current_json
from atom_plugin.evaluation.architectures import Network
from atom_plugin.evaluation.jobs import EvaluationCell, Outcome, Subject
from atom_plugin.evaluation.spread import sample_std
from atom_plugin.evaluation.targets import HARD
from atom_plugin.evaluation.training_recipes import SIAMESE, TrainConfig
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.store.provenance import Provenance
from atom_plugin.transforms.augmentation import DEFAULT_STRATEGY
from atom_plugin.transforms.preprocessing import Preprocessing

_ROUNDING = 1e-4  # of a norm; one thread and two give ZCA matrices that differ by 2e-7 of it


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Accuracies, in [0, 1], of networks of one architecture after their last epoch, and their training budget.

    ``names`` are the sets, one or the pooled ones; ``method`` is what made them, "full" for all real images, which have no
    ``ipc``. ``labels`` is the kind of labels that the networks learned, "hard", or "soft" with the kind; ``images`` is how many
    a network saw, ``preprocessing`` a description; ``test_images`` is the number of test images, None if unknown, ``on`` their
    part (one of :data:`~atom_plugin.evaluation.jobs.PARTS`). ``error`` is the error that ended the networks early, None if all
    were trained.
    """

    names: tuple[str, ...]
    method: str
    ipc: int | None
    model: str
    accuracies: tuple[float, ...]
    training: TrainConfig
    network: Network
    precision: str
    images: int
    test_images: int | None
    on: str = "test"
    labels: str = HARD
    preprocessing: str = ""
    error: str | None = None

    @property
    def mean(self) -> float | None:
        """The mean over networks; None without any, or if some failed, since the rest would give too good a mean."""
        return None if self.error or not self.accuracies else statistics.fmean(self.accuracies)

    @property
    def std(self) -> float | None:
        """The sample standard deviation over networks; None for a single one, or if there is no mean."""
        return None if self.mean is None else sample_std(self.accuracies)

    @property
    def steps(self) -> int:
        """The steps of each network's training."""
        return self.training.steps(self.images)

    @property
    def measured_on(self) -> str:
        """The test images, as text."""
        return f"{self.on} images" if self.test_images is None else f"{self.test_images:,} {self.on} images"

    @property
    def label(self) -> str:
        """The set, or the number and kind of pooled sets."""
        if len(self.names) == 1:
            return self.names[0]
        return f"{self.method} IPC {self.ipc}, {len(self.names)} sets"

    @property
    def architecture(self) -> str:
        """The model, and where a ConvNet differs from the defaults, except the normalisation, which has its own column."""
        if not isinstance(self.network, ConvNetConfig):
            return self.model
        own, usual = asdict(self.network), asdict(ConvNetConfig())
        words = [f"{name} {own[name]}" for name in own if name != "normalisation" and own[name] != usual[name]]
        return f"{self.model} ({', '.join(words)})" if words else self.model

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: ``file`` names one set, ``files`` those of a pooled result."""
        several = len(self.names) > 1
        own = asdict(self)
        del own["names"]
        return {
            **({"files": list(self.names)} if several else {"file": self.names[0]}),
            "mean": self.mean,
            "std": self.std,
            "n": len(self.accuracies),
            "steps": self.steps,
            **own,
            "accuracies": list(self.accuracies),
        }

    def describe(self) -> str:
        """A one-line summary."""
        if self.mean is None:
            return f"failed: {self.error}"
        count = len(self.accuracies)
        networks = f"{count} networks" if count > 1 else "1 network"
        spread = "" if self.std is None else f" ± {100 * self.std:.2f}"
        return (
            f"{100 * self.mean:.2f} %{spread} ({networks}, {self.network.normalisation or 'its own'} "
            f"normalisation, {self.training.epochs} epochs, {self.steps} steps; last epoch, {self.measured_on})"
        )

    def settings(self) -> dict[str, str]:
        """The settings in which two results must agree to be compared, or which distinguish them; as text, by name."""
        training = self.training
        details = [f"momentum {training.momentum:g}"] if training.optimizer == "sgd" else []
        details.append(f"weight decay {training.weight_decay:g}")
        courses = {
            "half": "x0.1 at half",
            "multistep": "x0.2 at 2/3 and 5/6",
            "step": f"x{training.step_factor:g} every {training.step_epochs} epochs",
            "cosine": f"cosine, {100 * training.warmup:g} % warm-up",
        }
        extras = {"label smoothing": training.label_smoothing, "CutMix probability": training.cutmix}
        rate = "at the set's learned rate" if training.learned_lr else f"{training.lr:g}"
        return {
            "recipe": training.recipe,
            "epochs": str(training.epochs),
            "batch": str(training.batch_size),
            "steps": str(self.steps),
            "optimizer": f"{training.optimizer} {rate} ({', '.join(details)}), {courses[training.schedule]}",
            "regularisation": ", ".join(f"{name} {value:g}" for name, value in extras.items() if value) or "none",
            "augmentation": augmentation_name(training),
            "labels": self.labels,
            "normalisation": self.network.normalisation or "own",
            "precision": self.precision,
            "measured on": self.measured_on,
            "preprocessing": self.preprocessing or "not told",
        }


def augmentation_name(training: TrainConfig) -> str:
    """Its name in messages."""
    return SIAMESE if training.augmentation == DEFAULT_STRATEGY else training.augmentation


def summarise_networks(outcomes: Iterable[Outcome]) -> list[Evaluation]:
    """One result per cell, in order of first appearance, and then the pooled ones.

    Sets are pooled if they have the same method, the same config except the seed, the same source, and equally many images of
    the same classes with the same preprocessing (a subset, or another file's preprocessing, is not in the config): the papers'
    mean and standard deviation "over 100 models" are over 20 networks on each of five sets. All networks have equal weight. If
    some set has no network, there is no pooled result.
    """
    by_cell: dict[int, list[Outcome]] = {}
    for outcome in outcomes:
        by_cell.setdefault(id(outcome.job.cell), []).append(outcome)
    cells = [group[0].job.cell for group in by_cell.values()]
    words = _preprocessing_words([cell.subject for cell in cells])
    single = [
        (cell, replace(_of_cell(group), preprocessing=told))
        for cell, group, told in zip(cells, by_cell.values(), words, strict=True)
    ]
    kinds: dict[str, list[tuple[Preprocessing, list[Evaluation]]]] = {}
    for cell, evaluation in single:
        if not cell.subject.full:
            preprocessing, groups = cell.subject.synthetic_set.preprocessing, kinds.setdefault(_kind(cell), [])
            group = next((group for held, group in groups if _same_preprocessing(held, preprocessing)), None)
            if group is None:
                groups.append((preprocessing, [evaluation]))
            else:
                group.append(evaluation)
    alike = [group for groups in kinds.values() for _, group in groups]
    pooled = [_pooled(group) for group in alike if len(group) > 1 and all(each.mean is not None for each in group)]
    return [*(evaluation for _, evaluation in single), *pooled]


def _preprocessing_words(subjects: Sequence[Subject]) -> list[str]:
    """Each result's preprocessing as text, equal only for equal preprocessings; if two read alike, one names its set."""
    kinds: list[tuple[Preprocessing, str]] = []
    told = []
    for subject in subjects:
        own = subject.synthetic_set.preprocessing
        words = next((words for held, words in kinds if _same_preprocessing(held, own)), None)
        if words is None:
            words = own.describe()
            if any(words == others for _, others in kinds):
                words = f"{words}, as of {subject.name}"
            kinds.append((own, words))
        told.append(words)
    return told


def _of_cell(outcomes: Sequence[Outcome]) -> Evaluation:
    cell = outcomes[0].job.cell
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    return Evaluation(
        names=(cell.subject.name,),
        method=cell.subject.method,
        ipc=cell.subject.ipc,
        model=cell.model,
        accuracies=tuple(outcome.accuracy for outcome in outcomes if outcome.accuracy is not None),
        training=cell.training,
        network=cell.network,
        precision=cell.precision,
        images=len(cell.subject),
        test_images=len(cell.subject.test),
        on=cell.subject.on,
        labels=cell.labels,
        error=errors[0] if errors else None,
    )


def _pooled(evaluations: Sequence[Evaluation]) -> Evaluation:
    return replace(
        evaluations[0],
        names=tuple(name for evaluation in evaluations for name in evaluation.names),
        accuracies=tuple(accuracy for evaluation in evaluations for accuracy in evaluation.accuracies),
    )


def _kind(cell: EvaluationCell) -> str:
    """Equal for networks that are pooled into one result, if their preprocessing is the same as well."""
    held, trained = cell.subject.synthetic_set, dict(cell.identity)
    del trained["trained_on"]
    provenance, counts = held.provenance, sorted(Counter(held.labels.tolist()).items())
    made = [
        provenance.method,
        _seedless(provenance),
        provenance.iterations,
        provenance.source,
        held.class_names,
        counts,
        cell.labels,
    ]
    return json.dumps([made, trained], sort_keys=True)


def _same_preprocessing(one: Preprocessing, other: Preprocessing) -> bool:
    """Whether both were fitted in the same way on the same images: within rounding, which depends on the number of threads."""
    mine, theirs = one.whitening, other.whitening
    if one.image_shape != other.image_shape or (mine and mine.eps) != (theirs and theirs.eps):
        return False
    pairs = [(one.mean, other.mean), (one.std, other.std)]
    if mine is not None and theirs is not None:
        pairs += [(mine.mean, theirs.mean), (mine.matrix, theirs.matrix)]
    return all(bool((ours - its).norm() <= _ROUNDING * ours.norm().clamp_min(1)) for ours, its in pairs)


def _seedless(provenance: Provenance) -> list[Any]:
    config = current_json(provenance.method, provenance.config)  # sets of this release and of older ones are pooled
    before = [(part, _alike(part.get("config", {}))) for part in config.get("extended", [])]
    return [
        _alike(config),
        [[made, part.get("method"), part.get("iterations"), part.get("images")] for part, made in before],
    ]


def _alike(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in ("seed", "extend", "extended")}

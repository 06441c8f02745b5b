"""DD-Ranking's scores of a synthetic set (Li et al., 2025, arXiv:2505.13300), from accuracies measured here.

Accuracies are fractions in [0, 1], of networks after their last epoch. docs/scores.md lists the differences from the
``ddranking`` package.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from atom_plugin.datasets import SourceData
from atom_plugin.distillation.selection import random_indices
from atom_plugin.errors import ConfigError
from atom_plugin.evaluation import network_of, network_seed
from atom_plugin.evaluation.spread import sample_std
from atom_plugin.evaluation.training import TrainConfig, TrainingRun, accuracy, train, train_on_real
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.runtime.device import resolve_device, resolve_precision
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.store.provenance import Provenance
from atom_plugin.store.synthetic_set import SyntheticSet


def label_robust_score(hlr: float, ior: float, *, weight: float = 0.5) -> float:
    """LRS = (e^a - e^-1) / (e - e^-1) with a = weight * IOR - (1 - weight) * HLR.

    ``hlr`` and ``ior`` are fractions in [-1, 1], so a is in [-1, 1] and the score in [0, 1]. Raises ConfigError for other
    values, percentages in particular, and for a ``weight`` outside [0, 1].
    """
    if not (-1 <= hlr <= 1 and -1 <= ior <= 1):
        raise ConfigError(
            f"HLR and IOR must be fractions in [-1, 1], not {hlr:g} and {ior:g}; divide percentages by 100"
        )
    _check_weight(weight)
    exponent = weight * ior - (1 - weight) * hlr
    return (math.exp(exponent) - math.exp(-1)) / (math.e - math.exp(-1))


@dataclass(frozen=True, kw_only=True)
class FullData:
    """Accuracies of networks trained on all real images, one or more; ``epochs`` is None if the user gave them."""

    accuracies: tuple[float, ...]
    epochs: int | None = None

    def __post_init__(self) -> None:
        if not self.accuracies or not all(0 <= value <= 1 for value in self.accuracies):
            raise ConfigError(
                f"accuracies on full data must be fractions in [0, 1], not {list(self.accuracies)}; divide "
                "percentages by 100"
            )


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The measured accuracies and the three scores, one value per repeat: network r on the set against network r on draw r.

    ``synthetic`` and ``random`` are accuracies in [0, 1] of networks with the same training, on the set and on equally many
    random real images per class. HLR uses the mean accuracy on full data, so its spread is that of ``synthetic``.
    """

    full: FullData
    synthetic: tuple[float, ...]
    random: tuple[float, ...]
    weight: float
    training: TrainConfig
    network: ConvNetConfig
    precision: str
    images: int
    test_images: int

    @property
    def hlr(self) -> tuple[float, ...]:
        """Hard label recovery: acc(full real) - acc(synthetic); less is better."""
        full = statistics.fmean(self.full.accuracies)
        return tuple(full - synthetic for synthetic in self.synthetic)

    @property
    def ior(self) -> tuple[float, ...]:
        """Improvement over random: acc(synthetic) - acc(random real); more is better."""
        return tuple(synthetic - random for synthetic, random in zip(self.synthetic, self.random, strict=True))

    @property
    def lrs(self) -> tuple[float, ...]:
        """Label-robust score, see :func:`label_robust_score`; more is better."""
        pairs = zip(self.hlr, self.ior, strict=True)
        return tuple(label_robust_score(hlr, ior, weight=self.weight) for hlr, ior in pairs)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; every series with its mean, sample standard deviation, n and values."""
        series = {"hlr": self.hlr, "ior": self.ior, "lrs": self.lrs, "synthetic": self.synthetic, "random": self.random}
        return {
            **{name: _summary(values) for name, values in series.items()},
            "full": {**_summary(self.full.accuracies), "epochs": self.full.epochs},
            "weight": self.weight,
            "training": self.training.to_json(),
            "network": asdict(self.network),
            "precision": self.precision,
            "images": self.images,
            "test_images": self.test_images,
        }

    def describe(self) -> str:
        """A three-line summary."""
        count = len(self.full.accuracies)
        networks = "1 network" if count == 1 else f"{count} networks"
        epochs = "1 epoch" if self.full.epochs == 1 else f"{self.full.epochs} epochs"
        trained = f"{networks} of {epochs}" if self.full.epochs else "given"
        return (
            f"LRS {_spread(self.lrs, 1, 4)}, HLR {_spread(self.hlr)} points, IOR {_spread(self.ior)} points "
            f"(n = {len(self.synthetic)}, weight {self.weight:g})\n"
            f"  accuracy: synthetic {_spread(self.synthetic)} %, random real {_spread(self.random)} %, "
            f"all real {_spread(self.full.accuracies)} % ({trained})\n"
            f"  {self.images} images, {self.network.normalisation} normalisation, {self.training.epochs} epochs; last epoch, "
            f"{self.test_images} test images, precision {self.precision}"
        )


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """How a set is scored: the recipe ``training`` for all networks, ``repeats`` on the set and as many on random images.

    ``network`` None is the set's own. ``full`` None trains ``full_repeats`` of the same networks on all real training images,
    by the same recipe with ``full_epochs``. ``weight`` is the weight of IOR in LRS. Raises ConfigError for impossible numbers.
    """

    training: TrainConfig
    network: ConvNetConfig | None = None
    full: FullData | None = None
    full_epochs: int = 100
    full_repeats: int = 1
    weight: float = 0.5
    repeats: int = 5
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        _check_weight(self.weight)
        if self.repeats < 1 or self.full_repeats < 1:
            raise ConfigError(
                f"repeats and full_repeats must be at least 1, not {self.repeats} and {self.full_repeats}"
            )
        replace(self.training, epochs=self.full_epochs)


def score(
    synthetic_set: SyntheticSet,
    data: SourceData,
    config: ScoreConfig,
    *,
    on_epoch: Callable[[], object] | None = None,
) -> Scores:
    """Train networks on the set and on random real images, by one recipe, and test each on ``data.test``.

    Each repeat draws other real images and another network; the two networks of a repeat start with the same weights, and those
    of the set are the networks that :func:`~atom_plugin.evaluation.evaluate` trains on hard labels, because the score uses the
    class of each image. Raises ConfigError for a set without images, SourceError if ``data`` has fewer images of a class than
    the set.
    """
    synthetic_set = synthetic_set.with_class_labels("a label-robust score")
    longer = replace(config.training, epochs=config.full_epochs)
    chosen = config.network or network_of(synthetic_set)
    on = resolve_device(config.device)
    each_epoch = None if on_epoch is None else lambda _: on_epoch()
    run = TrainingRun(device=on, precision=resolve_precision(config.precision, on), on_epoch=each_epoch)
    preprocessing = synthetic_set.preprocessing

    def accuracy_on(training_set: SyntheticSet, repeat: int) -> float:
        trained = train(training_set, chosen, config.training, seed=network_seed(config.seed, repeat), run=run)
        return accuracy(trained, preprocessing, data.test, device=on)

    def accuracy_on_all(repeat: int) -> float:
        number = network_seed(config.seed, repeat)
        trained = train_on_real(data.train, synthetic_set, chosen, longer, seed=number, run=run)
        return accuracy(trained, preprocessing, data.test, device=on)

    # All draws first: a class with too few images is found before any training.
    draws = [random_counterpart(synthetic_set, data, seed=config.seed, repeat=r) for r in range(config.repeats)]
    synthetic = tuple(accuracy_on(synthetic_set, repeat) for repeat in range(config.repeats))
    random = tuple(accuracy_on(draw, repeat) for repeat, draw in enumerate(draws))
    full = config.full or FullData(
        accuracies=tuple(map(accuracy_on_all, range(config.full_repeats))), epochs=config.full_epochs
    )
    return Scores(
        full=full,
        synthetic=synthetic,
        random=random,
        weight=config.weight,
        training=config.training,
        network=chosen,
        precision=run.precision,
        images=len(synthetic_set),
        test_images=len(data.test),
    )


def random_counterpart(synthetic_set: SyntheticSet, data: SourceData, *, seed: int, repeat: int) -> SyntheticSet:
    """Random real images instead of the set's: as many of each class, with the set's preprocessing, a new draw per repeat.

    Raises ConfigError for a set without images, SourceError if a class has too few.
    """
    if not len(synthetic_set):
        raise ConfigError("found a set without images, expected at least one to score; choose another file")
    generator = generator_for(seed, "random baseline", repeat)
    chosen = []
    for label, count in sorted(Counter(synthetic_set.labels.tolist()).items()):
        members = (data.train.labels == label).nonzero().flatten()
        picks = random_indices(data.train.labels[members], count, generator, class_names=data.class_names)
        chosen.append(members[picks])
    indices = torch.cat(chosen)
    return replace(
        synthetic_set,
        images=synthetic_set.preprocessing.forward(data.train.rows(indices)),
        labels=data.train.labels[indices],
        soft_labels=None,
        provenance=Provenance(method="random", seed=seed),
    )


def _check_weight(weight: float) -> None:
    if not 0 <= weight <= 1:
        raise ConfigError(f"the weight of IOR must be in [0, 1], not {weight:g}; 0.5 is usual")


def _summary(values: Sequence[float]) -> dict[str, Any]:
    return {"mean": statistics.fmean(values), "std": sample_std(values), "n": len(values), "values": list(values)}


def _spread(values: Sequence[float], scale: float = 100, digits: int = 2) -> str:
    mean = f"{scale * statistics.fmean(values):.{digits}f}"
    std = sample_std(values)
    return mean if std is None else f"{mean} ± {scale * std:.{digits}f}"

"""The accuracy study as data: the default recipe with one choice changed at a time, at CIFAR-10, IPC 10."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from study.cells import Cell
from study.figures import TABLE_1

TABLE = "accuracy"
DEFAULT = "default"
_PUBLISHED = TABLE_1["atom", "CIFAR-10, IPC 10"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """``choice`` takes ``value`` in place of the default's; what that means is in ``changes`` or in ``training``.

    ``both``: networks are trained on the set under the changed network too, not under the default's.
    """

    choice: str
    value: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    both: bool = False


def _each(choice: str, name: str, *values: Any) -> list[Variant]:
    return [Variant(choice=choice, value=_spelled(value), changes={name: value}) for value in values]


def _network(choice: str, name: str, *values: Any) -> list[Variant]:
    return [
        Variant(choice=choice, value=_spelled(value), changes={"network": {name: value}}, both=True) for value in values
    ]


def _training(choice: str, name: str, *values: Any) -> list[Variant]:
    return [Variant(choice=choice, value=_spelled(value), training={name: value}) for value in values]


def _matcher(choice: str, value: str, **options: float) -> Variant:
    return Variant(choice=choice, value=value, changes={"matcher_options": options})


def _spelled(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else value if isinstance(value, str) else f"{value:g}"


# A value may be the default's own: it then takes the default's figure, and the list stands when the default moves.
VARIANTS: tuple[Variant, ...] = (
    Variant(choice=DEFAULT, value=""),
    Variant(choice="ZCA", value="none", changes={"zca": False}),
    *(Variant(choice="ZCA", value=f"eps {eps:g}", changes={"zca_eps": eps}) for eps in (1e-6, 1e-3, 1e-2, 0.1, 1.0)),
    Variant(choice="ZCA", value="eps 1e-06, not standardised", changes={"standardise": False, "zca_eps": 1e-6}),
    # SGD on the images takes the product of both: a tenth of the factor is a tenth of the rate.
    _matcher("loss scale", "1", loss_scale=1.0),
    _matcher("loss scale", "1000", loss_scale=1000.0),
    *_each("image learning rate", "image_lr", 0.03, 0.1, 0.3, 1.0, 3.0),
    *_each("its course", "image_schedule", "constant", "cosine"),
    *_each("image momentum", "image_momentum", 0.0, 0.5, 0.9),
    *_each("iterations", "iterations", 400, 1000, 2500),
    *_each("real batch", "real_batch", 32, 64, 128, 256),
    *(_matcher("powers", f"p_s = p_c = {power:g}", p_s=power, p_c=power) for power in (1.0, 2.0, 4.0, 8.0)),
    _matcher("powers", "p_s = 1, p_c = 8", p_s=1.0, p_c=8.0),
    Variant(
        choice="normalisation of the matching networks",
        value="instance",
        changes={"network": {"normalisation": "instance"}},
    ),
    *_network("normalisation, matching and training", "normalisation", "batch", "instance", "group", "none"),
    *_network("pooling window", "pool_size", 2, 3),
    *_network("weights", "initialisation", "uniform", "normal"),
    Variant(choice="maps", value="after pooling", changes={"matcher": "atom-pooled"}),
    *_each("initialisation of the images", "initialiser", "random", "noise", "k-center", "herding"),
    *_training("training, epochs", "epochs", 150, 300, 800, 1500),
    *_training("training, batch", "batch_size", 64, 128, 256),
    *_training("training, learning rate", "lr", 0.003, 0.01, 0.03),
    *_training("training, augmentation", "augmentation", "none"),
)


def cells() -> list[Cell]:
    """One cell for each variant; the row says choice and value."""
    return [
        Cell(
            table=TABLE,
            row=row(variant),
            column="IPC 10",
            dataset="CIFAR-10",
            ipc=10,
            changes=variant.changes,
            training=variant.training,
            default_normalisation=not variant.both,
            paper=_PUBLISHED if variant.choice == DEFAULT else None,
        )
        for variant in VARIANTS
    ]


def row(variant: Variant) -> str:
    """The name of a variant's row, and of it on the command line."""
    return f"{variant.choice}: {variant.value}" if variant.value else variant.choice

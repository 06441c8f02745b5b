"""Results from a results file alone, without the sets that the networks were trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atom_plugin.errors import AtomError, StoreError
from atom_plugin.evaluation.architectures import NamedModel, Network
from atom_plugin.evaluation.results import Evaluation
from atom_plugin.evaluation.results_file import read_records
from atom_plugin.evaluation.targets import HARD
from atom_plugin.evaluation.training_recipes import TrainConfig
from atom_plugin.models.convnet import ConvNetConfig

_OF_NETWORK = ("seed", "repeat", "accuracy", "seconds", "hardware", "versions")  # what networks of one result differ in


def recorded_evaluations(path: Path) -> list[Evaluation]:
    """One result for each set, model and training in the file, in order of first appearance; sets are not pooled.

    The file does not contain the number of test images. Raises StoreError for a file that is missing, or not a results file.
    """
    if not path.is_file():
        raise StoreError(f"{path}: there is no such results file; write one with  atom-cli consume evaluate --results")
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in read_records(path):
        same = {name: value for name, value in record.items() if name not in _OF_NETWORK}
        groups.setdefault(json.dumps(same, sort_keys=True), []).append(record)
    try:
        return [_evaluation(group) for group in groups.values()]
    except (AtomError, LookupError, TypeError, ValueError) as error:
        raise StoreError(
            f"{path}: contains a result that this release does not understand ({error}); update"
        ) from error


def _evaluation(records: list[dict[str, Any]]) -> Evaluation:
    first = records[0]
    training = TrainConfig(**first["training"])
    return Evaluation(
        names=(str(first.get("name", "not named")),),
        method=str(first.get("method", "")),
        ipc=first.get("ipc"),
        model=first["model"],
        accuracies=tuple(float(record["accuracy"]) for record in records),
        training=training,
        network=_network(first["network"]),
        precision=first["precision"],
        # As many as the steps tell: exact up to a batch.
        images=int(first.get("steps", 0)) // training.epochs * training.batch_size,
        test_images=None,
        on=first["on"],
        labels=str(first.get("labels", HARD)),
    )


def _network(stored: Mapping[str, Any]) -> Network:
    return NamedModel(**stored) if "name" in stored else ConvNetConfig.from_json(stored)

"""The server's task for its clients in a round, and its record in a message."""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from flwr.app import ConfigRecord, RecordDict

from atom_plugin.distillation.config import FROM_SET, DistillConfig
from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.runtime import bounded_json
from atom_plugin.transforms.preprocessing import Preprocessing

TASK = "distillation"
"""The key of the task's record in the server's message."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """The clients' distillation: ``config`` for the classes of ``class_names`` that a client has, under ``preprocessing``.

    ``radius`` is the distance of the matching networks from the global weights, over all weights together; None for random
    networks. Raises ConfigError for settings that another machine cannot use.
    """

    config: DistillConfig
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    radius: float | None
    round: int = 0

    def __post_init__(self) -> None:
        config = self.config
        # A client does not open files that a server names.
        if config.pool is not None or config.extend is not None or config.image_init.startswith(FROM_SET):
            raise ConfigError(
                "found a pool or a set in the clients' config, which are files on this machine; leave out pool and extend, and "
                "start images from random, k-center, herding, forgetting or noise"
            )
        if self.preprocessing.whitening is not None or config.zca_eps is not None:
            raise ConfigError(
                "found ZCA whitening, which needs all clients' images together; give a preprocessing with mean and std only"
            )
        if self.radius is not None and config.matching_model != "convnet":
            raise ConfigError(
                f"found the matching model {config.matching_model!r} and a radius around the global ConvNet; leave out one"
            )
        if self.radius is not None and not 0 < self.radius < float("inf"):
            raise ConfigError(f"radius must be above 0 and finite, or None for random networks, not {self.radius}")

    def to_record(self) -> ConfigRecord:
        """The record that the server sends."""
        record = preprocessing_record(self.preprocessing, self.config)
        record["config"] = json.dumps(self.config.to_json())
        record["class-names"] = list(self.class_names)
        record["round"] = self.round
        if self.radius is not None:
            record["radius"] = self.radius
        return record

    @classmethod
    def from_message(cls, content: RecordDict) -> Task:
        """The task of a message. Raises StoreError if it is missing or damaged, and the ConfigError of the class."""
        record = content.config_records.get(TASK)
        if record is None:
            raise StoreError(
                f"found no record {TASK!r} in the message, expected the record of MergeSets; use it as the strategy"
            )
        try:
            channels, height, width = map(int, record["image-shape"])  # type: ignore[arg-type]  # else it raises
            preprocessing = Preprocessing(
                mean=torch.tensor(record["mean"]),
                std=torch.tensor(record["std"]),
                image_shape=(channels, height, width),
            )
            return cls(
                config=DistillConfig.from_json(bounded_json.parse(record["config"])),  # type: ignore[arg-type]
                preprocessing=preprocessing,
                class_names=tuple(map(str, record["class-names"])),  # type: ignore[arg-type]
                radius=record.get("radius"),  # type: ignore[arg-type]
                round=int(record["round"]),  # type: ignore[arg-type]
            )
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise StoreError(
                f"the server's task cannot be read ({' '.join(str(error).split())}); use one version on both sides"
            ) from error


def preprocessing_record(preprocessing: Preprocessing, config: DistillConfig) -> ConfigRecord:
    """The preprocessing of the sent images: it must be bitwise equal on both sides, or the images cannot be used."""
    return ConfigRecord(
        {
            "image-shape": list(preprocessing.image_shape),
            "mean": preprocessing.mean.tolist(),
            "std": preprocessing.std.tolist(),
            "storage": config.storage,
            "factor": config.factor,
        }
    )

"""Small Avalanche benchmarks and strategies for tests. Importing this imports Avalanche."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from PIL import Image
from small import coloured_source
from torch.utils.data import Dataset

from atom_plugin.datasets import SourceData, Split
from atom_plugin.integrations.avalanche import SyntheticMemory, SyntheticReplay
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.replay.suppliers import DistillingSupplier, SelectingSupplier
from atom_plugin.transforms.preprocessing import Preprocessing

# After this package's, which keeps Avalanche's warnings at import to itself.
from avalanche.benchmarks import class_incremental_benchmark, nc_benchmark, split_online_stream  # noqa: F401  # isort: skip
from avalanche.benchmarks.utils import as_classification_dataset  # isort: skip
from avalanche.benchmarks.utils.transform_groups import TransformGroups  # isort: skip
from avalanche.evaluation.metrics import accuracy_metrics  # isort: skip
from avalanche.logging import BaseLogger  # isort: skip
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin  # isort: skip
from avalanche.training.supervised import Naive  # isort: skip

DATA = coloured_source(classes=6, per_class=10)
STEPS = ([3, 0], [5, 1], [4, 2])
MEAN, STD = (0.25, 0.3, 0.35), (0.2, 0.25, 0.5)
STANDARDISED = Preprocessing(mean=torch.tensor(MEAN), std=torch.tensor(STD), image_shape=(3, 8, 8))
# As float32, what is stored is what a network sees.
SMALL: dict[str, Any] = {"precision": "float32", "storage": "float32", "network": {"width": 8, "depth": 2}}
QUICK = DistillingSupplier(overrides={**SMALL, "iterations": 2, "real_batch": 4})
SELECTED = SelectingSupplier(overrides=SMALL)

FORMS: dict[str, Callable[[torch.Tensor], Any]] = {
    "uint8": lambda image: image,
    "floats": lambda image: image.float() / 255,
    "pil": lambda image: Image.fromarray(image.permute(1, 2, 0).numpy()),
    "processed": lambda image: STANDARDISED.forward(image[None])[0],
}


class Images(Dataset[tuple[Any, int]]):
    """A split's images in one of the ``FORMS``."""

    def __init__(self, split: Split, form: str) -> None:
        self._images, self._form = split.images, FORMS[form]
        self.targets = split.labels.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self._form(self._images[index]), self.targets[index]


def stream_of(
    kind: str = "xy",
    form: str = "processed",
    *,
    data: SourceData = DATA,
    steps: Sequence[Sequence[int]] = STEPS,
    train: Any = None,
    evaluation: Any = None,
) -> Any:
    """A benchmark of the ``kind`` "xy" (x, y), "nc" (x, y, 0) or "tasks" (x, y, task)."""
    order = [label for classes in steps for label in classes]
    parts = Images(data.train, form), Images(data.test, form)
    if kind == "xy":
        groups = [TransformGroups({"train": train, "eval": evaluation}) for _ in parts]
        datasets = [as_classification_dataset(part, group) for part, group in zip(parts, groups, strict=True)]
        return class_incremental_benchmark(
            {"train": datasets[0], "test": datasets[1]},
            class_order=order,
            num_classes_per_exp=[len(classes) for classes in steps],
        )
    return nc_benchmark(
        *parts,
        len(steps),
        task_labels=kind == "tasks",
        fixed_class_order=order,
        per_exp_classes={step: len(classes) for step, classes in enumerate(steps)},
        train_transform=train,
        eval_transform=evaluation,
    )


def small_network(classes: int = 6, seed: int = 0) -> torch.nn.Module:
    config = ConvNetConfig(width=8, depth=1)
    return config.build((3, 8, 8), classes, generator=torch.Generator().manual_seed(seed))


def batch_normalised(seed: int = 0) -> torch.nn.Module:
    config = ConvNetConfig(width=8, depth=1, normalisation="batch")
    return config.build((3, 8, 8), 6, generator=torch.Generator().manual_seed(seed))


def strategy_with(
    *plugins: Any, model: torch.nn.Module | None = None, template: Any = Naive, epochs: int = 1, **options: Any
) -> Any:
    network = small_network() if model is None else model
    settings: dict[str, Any] = {"optimizer": torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)}
    settings |= {"train_mb_size": 7, "eval_mb_size": 64, "criterion": torch.nn.CrossEntropyLoss()}
    evaluator = EvaluationPlugin(accuracy_metrics(stream=True), loggers=[BaseLogger()])
    return template(
        model=network, train_epochs=epochs, plugins=list(plugins), evaluator=evaluator, **{**settings, **options}
    )


class Recorder(SupervisedPlugin):
    """What was trained on: images, labels, mask and learning rate of each batch, and the network of each experience."""

    def __init__(self, masked: Any = None) -> None:
        super().__init__()
        self.masked = masked
        self.batches: list[dict[str, Any]] = []
        self.networks: list[torch.nn.Module] = []

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.networks.append(strategy.model)

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        self.batches.append(
            {
                "images": strategy.mbatch[0].clone(),
                "labels": strategy.mbatch[1].clone(),
                "tasks": strategy.mbatch[2].clone() if len(strategy.mbatch) > 2 else None,
                "mask": None if self.masked is None else self.masked.memory_mask,
                "experience": strategy.clock.train_exp_counter,
                "epoch": strategy.clock.train_exp_epochs,
                "lr": [group["lr"] for group in strategy.optimizer.param_groups],
            }
        )


def quick_replay(policy: Any, **options: Any) -> SyntheticReplay:
    """Without fine-tuning and asymmetric loss, which are test_avalanche_fine_tuning's matter."""
    return SyntheticReplay(policy, **{"finetune_steps": 0, "asymmetric_loss": False, **options})


def trained(strategy: Any, stream: Iterable[Any]) -> Any:
    for experience in stream:
        strategy.train(experience)
    return strategy


def processed_policy(*memory: Any, supplier: Any = QUICK, **options: Any) -> SyntheticMemory:
    """A policy for streams of the form "processed"."""
    return SyntheticMemory(*memory, supplier, source=DATA, stream_preprocessing=STANDARDISED, **options)


def is_among(image: torch.Tensor, images: torch.Tensor) -> bool:
    return bool((images == image).flatten(1).all(1).any())

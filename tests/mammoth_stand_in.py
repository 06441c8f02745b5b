"""The part of Mammoth's interface that this package uses, written anew for tests: Mammoth itself cannot be installed.

After commit e75a491 of https://github.com/aimagelab/mammoth: which names its modules have, in what form a buffer and the
samples keep images, when a model is told of tasks, and what a checkpoint holds. ``modules()`` has them by name.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader


class Buffer:
    """Images in [0, 1] and what else is kept of them, in tensors of a fixed size; the first so many places are filled."""

    def __init__(self, buffer_size: int) -> None:
        self.buffer_size = buffer_size
        self.num_seen_examples = 0
        self.attributes = ["examples", "labels", "logits", "task_labels", "true_labels"]

    def __len__(self) -> int:
        return min(self.num_seen_examples, self.buffer_size)

    @property
    def used_attributes(self) -> list[str]:
        return [name for name in self.attributes if hasattr(self, name)]

    def is_empty(self) -> bool:
        return self.num_seen_examples == 0

    def empty(self) -> None:
        for name in self.used_attributes:
            delattr(self, name)
        self.num_seen_examples = 0

    def add_data(self, examples: torch.Tensor, **more: torch.Tensor) -> None:
        """To the next free place, then at random over what is there: reservoir sampling."""
        given = {"examples": examples, **more}
        for row in range(len(examples)):
            place = self.num_seen_examples
            if place >= self.buffer_size:
                place = int(np.random.randint(0, place + 1))
            self.num_seen_examples += 1
            for name, values in given.items():
                if not hasattr(self, name):
                    kind = torch.float32 if name in ("examples", "logits") else torch.int64
                    setattr(self, name, torch.zeros(self.buffer_size, *values.shape[1:], dtype=kind))
                if place < self.buffer_size:
                    getattr(self, name)[place] = values[row]

    def get_data(self, size: int, transform: Any = None, device: Any = None) -> tuple[torch.Tensor, ...]:
        chosen = np.random.choice(len(self), size=min(size, len(self)), replace=False)
        parts = [getattr(self, name)[chosen] for name in self.used_attributes]
        return (parts[0] if transform is None else transform(parts[0]), *parts[1:])

    def serialize(self) -> dict[str, torch.Tensor]:
        return {name: getattr(self, name) for name in self.used_attributes}


class ContinualModel(torch.nn.Module):
    """A network with its optimiser, that counts tasks."""

    def __init__(self, backbone: Any, loss: Any, args: Namespace, transform: Any, dataset: Any = None) -> None:
        super().__init__()
        self.net, self.loss, self.args, self.dataset = backbone, loss, args, dataset
        # Mammoth drops what is not for tensors (ToPILImage), and applies the rest to a batch at once.
        self.transform = None if transform is None else transform.transforms[-1]
        self.device = torch.device("cpu")
        self.opt = torch.optim.SGD(self.net.parameters(), lr=args.lr)
        self.current_task = 0


class ContinualDataset:
    """The data of one task after the other."""

    def __init__(self, args: Namespace) -> None:
        self.args, self.train_loader, self.test_loaders, self.c_task = args, None, [], -1  # type: ignore[var-annotated]

    def get_class_names(self) -> list[str]:
        raise NotImplementedError

    def evaluate(self, model: Any, dataset: Any) -> tuple[list[float], list[float]]:
        """Accuracy in % on each task so far, twice."""
        accuracies = []
        for loader in self.test_loaders:
            right = [(model.net(x).argmax(1) == y).float() for x, y, *_ in loader]
            accuracies.append(100 * float(torch.cat(right).mean()))
        return accuracies, accuracies


class Samples:
    """The samples of a task: those ``rows`` of a data set, whose targets this has, too."""

    def __init__(self, dataset: Any, rows: np.ndarray[Any, Any]) -> None:
        self.dataset, self.rows = dataset, rows
        self.targets = torch.as_tensor(np.asarray(dataset.targets)[rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.rows[index])]


def store_masked_loaders(train: Any, test: Any, setting: Any) -> tuple[Any, Any]:
    """Loaders of the next task; where domains follow one another, every task has all classes."""
    setting.c_task += 1
    if setting.SETTING == "domain-il":
        classes = range(setting.N_CLASSES)
    else:
        first = setting.N_CLASSES_PER_TASK * setting.c_task
        classes = range(first, first + setting.N_CLASSES_PER_TASK)
    parts = []
    for data in (train, test):
        labels = np.asarray(data.targets)
        rows = np.flatnonzero(np.isin(labels, list(classes)) | (labels < 0))
        parts.append(Samples(data, rows))
    size = setting.args.batch_size
    setting.train_loader = DataLoader(parts[0], batch_size=size, shuffle=True)
    setting.test_loaders.append(DataLoader(parts[1], batch_size=size))
    return setting.train_loader, setting.test_loaders[-1]


def add_rehearsal_args(parser: ArgumentParser) -> None:
    parser.add_argument("--buffer_size", type=int, required=True)
    parser.add_argument("--minibatch_size", type=int)


def parsed(model: Any, settings: dict[str, Any]) -> Namespace:
    """Mammoth's options, as far as they are needed, and those of the class ``model``."""
    parser = ArgumentParser(allow_abbrev=False)
    model.get_parser(parser)
    for name, kind in {"seed": int, "start_from": int, "lr": float, "n_epochs": int, "batch_size": int}.items():
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--num_workers", type=int)
    parser.add_argument("--backbone")
    return parser.parse_args([f"--{name}={value}" for name, value in settings.items()])


def train(model: Any, dataset: Any, args: Namespace) -> Iterator[int]:
    """Train on one task after the other; gives the number of each when it is over."""
    for task in range(dataset.N_TASKS):
        loader, _ = dataset.get_data_loaders()
        if task >= (args.start_from or 0):
            for epoch in range(args.n_epochs):
                for inputs, labels, not_aug_inputs in loader:
                    model.observe(inputs, labels, not_aug_inputs, epoch=epoch)
        model.end_task(dataset)
        model.current_task += 1
        yield task


def checkpoint(model: Any) -> dict[str, Any]:
    """What Mammoth saves, and reads back with nothing but tensors and plain values."""
    return {"model": model.state_dict(), "buffer": model.buffer.serialize()}


def load_checkpoint(saved: dict[str, Any], model: Any) -> None:
    model.load_state_dict(saved["model"])
    model.load_buffer(saved["buffer"])


def modules() -> dict[str, ModuleType]:
    """The stand-in's modules under Mammoth's names."""
    registered: dict[str, dict[str, Any]] = {"backbone": {}, "dataset": {}, "model": {}}

    def register(kind: str) -> Callable[[str], Callable[[Any], Any]]:
        def named(name: str) -> Callable[[Any], Any]:
            return lambda target: registered[kind].setdefault(name, target)

        return named

    def load_runner(model: str, dataset: str, settings: dict[str, Any]) -> tuple[Any, Any]:
        kind = registered["model"][model]
        args = parsed(kind, settings)
        torch.manual_seed(args.seed)
        np.random.seed(args.seed)
        data = registered["dataset"][dataset](args)
        network = registered["backbone"][args.backbone](data.N_CLASSES)
        return kind(network, data.get_loss(), args, data.get_transform(), dataset=data), data

    found = {
        "backbone": SimpleNamespace(register_backbone=register("backbone")),
        "datasets": SimpleNamespace(register_dataset=register("dataset")),
        "datasets.utils": SimpleNamespace(),
        "datasets.utils.continual_dataset": SimpleNamespace(
            ContinualDataset=ContinualDataset, store_masked_loaders=store_masked_loaders
        ),
        "models": SimpleNamespace(register_model=register("model")),
        "models.utils": SimpleNamespace(),
        "models.utils.continual_model": SimpleNamespace(ContinualModel=ContinualModel),
        "utils": SimpleNamespace(),
        "utils.args": SimpleNamespace(add_rehearsal_args=add_rehearsal_args),
        "utils.buffer": SimpleNamespace(Buffer=Buffer),
        "utils.notebooks": SimpleNamespace(load_runner=load_runner),
        "utils.training": SimpleNamespace(train=lambda *given: list(train(*given)) and None),
    }
    made = {}
    for name, content in found.items():
        made[name] = ModuleType(name)
        vars(made[name]).update(vars(content))
    return made

"""The effect of each method on replay, one at a time, on held-out training images: `python benchmarks/replay_levers.py`.

One stream of ten classes in five steps, in a loop of plain PyTorch. Writes a line of JSON per run to --out: the accuracy on all
classes seen after each step, and the network's loss, accuracy and gradient norms on the memory.

    python benchmarks/replay_levers.py --data cifar --memory packed-atom --finetune 500 --asymmetric --out runs/levers.jsonl
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from images import load_images
from torch.nn import functional as F

from atom_plugin.datasets import SourceData, Split
from atom_plugin.datasets.validation import hold_out
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.models.fitting import SGD
from atom_plugin.replay.logits import LABELS, LOGIT_WEIGHT, MemoryLabels
from atom_plugin.replay.memory import Budget, ReplayMemory
from atom_plugin.replay.suppliers import DistillingSupplier, SelectingSupplier, Supplier, only_classes
from atom_plugin.runtime import jsonl
from atom_plugin.runtime.device import describe_hardware
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.transforms.augmentation import DEFAULT_STRATEGY, Augmentation
from atom_plugin.transforms.preprocessing import Preprocessing

BATCH = 64


@dataclass
class Images:
    """Preprocessed images (N, C, H, W) and their labels (N,); of a memory also the stored logits (N, classes)."""

    images: torch.Tensor
    labels: torch.Tensor
    logits: torch.Tensor | None = None

    def logits_at(self, rows: torch.Tensor) -> torch.Tensor | None:
        return None if self.logits is None else self.logits[rows]


@dataclass
class Learner:
    """A network and its optimiser; ``generator`` draws augmentation."""

    network: torch.nn.Module
    generator: torch.Generator

    def __post_init__(self) -> None:
        self.optimizer = SGD().over(self.network)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """The forward pass in bfloat16 and channels-last layout."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.network(images.contiguous(memory_format=torch.channels_last)).float()

    def step(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def told(self, images: torch.Tensor) -> torch.Tensor:
        """The outputs in evaluation mode."""
        self.network.eval()
        logits = torch.cat([self.logits(part) for part in images.split(500)])
        self.network.train()
        return logits

    def judged(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float, torch.Tensor]:
        """Accuracy, loss, and predicted classes."""
        logits = self.told(images)
        said = logits.argmax(1)
        return float((said == labels).float().mean()), float(F.cross_entropy(logits, labels)), said


def supplier(given: argparse.Namespace, network: dict[str, Any]) -> Supplier:
    packed = {"factor": 2, "storage": "uint8"} if given.memory.startswith("packed-") else {}
    name, common = given.memory.removeprefix("packed-"), {"network": network, "zca_eps": None, **packed}
    if name in ("random", "herding"):
        return SelectingSupplier(method=name, overrides=common)
    rate = {"image_lr": 0.4 * given.ipc} if packed else {}
    return DistillingSupplier(
        recipe="atom",
        overrides={"storage": "float32", **common, **rate, "iterations": given.iterations, "matcher": name},
    )


def norm(loss: torch.Tensor, network: torch.nn.Module) -> float:
    """The norm of the gradient of ``loss``."""
    parts = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
    return float(torch.cat([part.flatten() for part in parts]).norm())


def train_on_stream(
    learner: Learner, stream: Images, held: Images | None, given: argparse.Namespace, *, classes: list[int], number: int
) -> list[tuple[float, float]]:
    """Train on an experience; every hundredth batch records the norms of the stream's and the memory's gradients."""
    augmentation = Augmentation(strategy=DEFAULT_STRATEGY if given.augment_memory else "none")
    others = torch.ones(10, dtype=torch.bool)
    others[classes] = False
    norms = []
    for epoch in range(given.epochs):
        torch.manual_seed(1000 * number + epoch)
        waiting: list[torch.Tensor] = []
        for index, rows in enumerate(torch.randperm(len(stream.labels)).split(BATCH)):
            images, labels = stream.images[rows], stream.labels[rows]
            if held is None:
                learner.step(F.cross_entropy(learner.logits(images), labels))
                continue
            waiting = waiting or list(torch.randperm(len(held.labels)).split(BATCH))
            chosen = waiting.pop()
            memory = held.images[chosen]
            if augmentation.operations:
                memory = augmentation.per_sample(memory, learner.generator)
            if given.separate_normalisation:
                own, replayed = learner.logits(images), learner.logits(memory)
            else:
                own, replayed = learner.logits(torch.cat([images, memory])).split([len(images), len(memory)])
            if given.asymmetric:
                own = own.masked_fill(others, -torch.inf)
            replayed, term = memory_labels(given).apply(replayed, held.logits_at(chosen))
            losses = [
                F.cross_entropy(part, told, reduction="sum") / (len(images) + len(memory))
                for part, told in ((own, labels), (replayed, held.labels[chosen]))
            ]
            losses[1] = losses[1] + term
            if index % 100 == 50:
                norms.append((norm(losses[0], learner.network), norm(losses[1], learner.network)))
            learner.step(losses[0] + losses[1])
    return norms


def memory_labels(given: argparse.Namespace) -> MemoryLabels:
    return MemoryLabels(kind=given.memory_labels, weight=given.logit_weight)


def fine_tune(learner: Learner, held: Images, steps: int) -> None:
    """Train on the memory's classes alone, with a tenth of the rate from half on."""
    augmentation, groups = Augmentation(strategy=DEFAULT_STRATEGY), learner.optimizer.param_groups
    rates, waiting = [group["lr"] for group in groups], []
    for step in range(steps):
        if step == steps // 2:
            for group in groups:
                group["lr"] *= 0.1
        waiting = waiting or list(torch.randperm(len(held.labels)).split(BATCH))
        rows = waiting.pop()
        images = augmentation.per_sample(held.images[rows], learner.generator)
        learner.step(F.cross_entropy(learner.logits(images), held.labels[rows]))
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate


def of_classes(split: Split, classes: list[int], preprocessing: Preprocessing) -> Images:
    rows = torch.isin(split.labels, torch.tensor(classes)).nonzero().flatten()
    return Images(images=preprocessing.forward(split.rows(rows)), labels=split.labels[rows])


def run(data: SourceData, given: argparse.Namespace) -> dict[str, Any]:
    """The curve, and the state of the network before each fine-tuning."""
    assert data.validation is not None
    order = torch.randperm(10, generator=torch.Generator().manual_seed(given.order)).tolist()
    network = {"width": given.width, "normalisation": given.normalisation}
    config = DistillConfig.from_recipe("atom", ipc=given.ipc, image_shape=data.image_shape, zca=False, network=network)
    preprocessing = config.fit_preprocessing(only_classes(data, order[:2]))
    built = config.network.build(data.image_shape, 10, generator=generator_for(0, "network", 0))
    learner = Learner(built.to(memory_format=torch.channels_last), generator_for(0, "screen", given.order))
    labels, filling = memory_labels(given), supplier(given, network)
    memory = ReplayMemory(Budget(ipc=given.ipc), keep_logits=labels.soft)
    curve, told, held, seen = [], [], None, []
    for number in range(5):
        classes = order[2 * number : 2 * number + 2]
        seen += classes
        stream = of_classes(data.train, classes, preprocessing)
        norms = train_on_stream(learner, stream, held, given, classes=classes, number=number)
        tested = of_classes(data.validation, seen, preprocessing)
        if held is not None:
            old = of_classes(data.validation, seen[:-2], preprocessing)
            accuracy, _, said = learner.judged(old.images, old.labels)
            remembered, loss, _ = learner.judged(held.images, held.labels)
            told.append(
                {
                    "old": accuracy,
                    "old_called_new": float(torch.isin(said, torch.tensor(classes)).float().mean()),
                    "memory": remembered,
                    "memory_loss": loss,
                    "gradients": norms,
                }
            )
        memory.add(filling.supply(data, classes, ipc=given.ipc, preprocessing=preprocessing))
        decoded = memory.images.decoded()
        held = Images(images=decoded.images, labels=decoded.labels, logits=memory.logits)
        if given.finetune:
            fine_tune(learner, held, given.finetune)
        if labels.soft:
            memory.store_logits(learner.told(held.images))
            held.logits = memory.logits
        curve.append(learner.judged(tested.images, tested.labels)[0])
        print(f"{given.memory}, {2 * number + 2} classes: {100 * curve[-1]:.1f} %", flush=True)
    return {"curve": curve, "before_finetuning": told, "memory_bytes": memory.bytes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder of ten classes, an archive of one, or .npz")
    parser.add_argument(
        "--memory", default="random", help="random, herding or a matcher; packed-NAME packs 2x2 as uint8"
    )
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=2, help="passes over each step's images")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--normalisation", default="batch")
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--finetune", type=int, default=0, help="steps on the memory alone after each experience")
    parser.add_argument("--asymmetric", action="store_true", help="the stream's images compete among their own classes")
    parser.add_argument("--augment-memory", action="store_true")
    parser.add_argument("--memory-labels", choices=LABELS, default="hard", help="logits: DER, both: DER++")
    parser.add_argument("--logit-weight", type=float, default=LOGIT_WEIGHT, help="DER's alpha")
    parser.add_argument(
        "--separate-normalisation", action="store_true", help="memory and stream pass the network one after the other"
    )
    parser.add_argument("--order", type=int, default=0, help="of the classes")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    data = hold_out(load_images(given.data), 0.1)
    began = time.perf_counter()
    found = run(data, given)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    about = {name: value for name, value in vars(given).items() if name not in ("data", "out")}
    machine = describe_hardware(torch.device("cpu"))
    jsonl.append(given.out, {**about, **found, "seconds": time.perf_counter() - began, "machine": machine})


if __name__ == "__main__":
    main()

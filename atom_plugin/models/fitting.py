"""The training loop, and SGD, for all networks: for evaluation on a set (:mod:`atom_plugin.evaluation.training`) and for
matching (:mod:`atom_plugin.distillation.network_trainer`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler

from atom_plugin.errors import DivergenceError
from atom_plugin.runtime.device import autocast
from atom_plugin.transforms.cutmix import draw_box, mix_images, mix_labels, mix_targets

BATCH_SIZE = 256
"""Default number of images per batch."""

OnBatch = Callable[[torch.Tensor, torch.Tensor], object]
"""Called with the indices of a batch's images, int64 (n,) on the CPU, and their logits (n, classes) before the batch's step."""


@dataclass(frozen=True, kw_only=True)
class SGD:
    """SGD with momentum (:func:`sgd_step`), with the default values of every training."""

    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def over(self, network: nn.Module) -> torch.optim.SGD:
        """The optimiser of all parameters of ``network``, weight decay on each."""
        return torch.optim.SGD(network.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class Batches:
    """``count`` images, ``size`` at a time, in a new order in each epoch.

    ``of`` makes one batch from its indices, int64 (n,) on the CPU, and the generator of what it draws besides: images
    (n, C, H, W), and their class ids (n,) or a value for each class (n, classes), on the network's device.
    """

    count: int
    size: int
    of: Callable[[torch.Tensor, torch.Generator], tuple[torch.Tensor, torch.Tensor]]

    def with_cutmix(self, probability: float, classes: int) -> Batches:
        """The batches, each mixed with ``probability`` (:mod:`~atom_plugin.transforms.cutmix`); class ids become
        probabilities.
        """

        def mixed(chosen: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
            images, labels = self.of(chosen, generator)
            height, width = images.shape[-2:]
            box = draw_box(probability, (height, width), generator).to(images.device)
            if labels.is_floating_point():
                return mix_images(images, box), mix_targets(labels, box, (height, width))
            return mix_images(images, box), mix_labels(labels, box, (height, width), classes)

        return replace(self, of=mixed)


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a training goes: ``schedule`` is stepped once an epoch; ``on_epoch`` is told how many epochs are done.

    ``squared``: by mean squared error, not by cross-entropy with ``label_smoothing``.
    """

    epochs: int
    precision: str = "float32"
    label_smoothing: float = 0.0
    squared: bool = False
    schedule: LRScheduler | None = None
    on_batch: OnBatch | None = None
    on_epoch: Callable[[int], object] | None = None


def fit(
    network: nn.Module,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    course: Course,
    generator: torch.Generator,
) -> float:
    """Train ``network`` by cross-entropy or mean squared error; returns the last batch's loss, which :func:`check_loss` is for.

    ``generator`` is a CPU generator for the order of the images and the draws of their batches.
    """
    loss = torch.zeros(())
    for epoch in range(course.epochs):
        for chosen in torch.randperm(batches.count, generator=generator).split(batches.size):
            with torch.no_grad():
                images, targets = batches.of(chosen, generator)
            with autocast(images.device, course.precision):
                logits = network(images.contiguous(memory_format=torch.channels_last))
            if course.on_batch is not None:
                course.on_batch(chosen, logits.detach())
            if course.squared:
                loss = F.mse_loss(logits.float(), targets)
            else:
                loss = F.cross_entropy(logits.float(), targets, label_smoothing=course.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        if course.schedule is not None:
            course.schedule.step()
        if course.on_epoch is not None:
            course.on_epoch(epoch + 1)
    return float(loss.detach())


def check_loss(loss: float, remedy: str, *, network: str = "a network") -> None:
    """Raise DivergenceError, with ``remedy``, if the final ``loss`` of a training is not finite."""
    if not abs(loss) < float("inf"):
        raise DivergenceError(f"training {network} ended with a loss of {loss}; {remedy}")


@torch.no_grad()
def sgd_step(
    parameter: torch.Tensor,
    gradient: torch.Tensor,
    buffer: torch.Tensor,
    *,
    lr: float | torch.Tensor,
    momentum: float,
    weight_decay: float = 0.0,
) -> None:
    """A step of ``torch.optim.SGD`` on one tensor, in place: v = m v + g + d p, then p = p - lr v.

    ``buffer`` is v, zeros before the first step. A captured graph reads ``lr`` from a tensor (1,) on the device.
    """
    buffer.mul_(momentum).add_(gradient)
    if weight_decay:
        buffer.add_(parameter, alpha=weight_decay)
    if isinstance(lr, torch.Tensor):
        parameter.addcmul_(buffer, lr, value=-1)
    else:
        parameter.sub_(buffer, alpha=lr)

"""Unrolled training: DD (Wang et al., "Dataset Distillation", 2018) and LD (Bohdal et al., 2020, "Flexible Dataset
Distillation").

A network with random weights theta_0 takes T steps of gradient descent on the whole set, with learned step sizes:

    theta_t+1 = theta_t - eta_t * grad CE(synthetic, labels; theta_t),    L = CE(real batch; theta_T)

and L is differentiated through all steps. DD learns the images and the step sizes, LD the labels of fixed real images.

Deviations. DD: each step uses the whole set, not a part of it; the networks are the loop's ConvNets. LD: labels are the softmax
of learned logits, and each iteration unrolls from random weights; the released code updates one network online and restarts it
when it stops improving.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from atom_plugin.errors import ConfigError
from atom_plugin.matchers.distances import check_weights
from atom_plugin.matchers.set_matcher import LABELS, STEP_SIZES, Learned, SetMatcher, SetStep
from atom_plugin.models.features import widened

Weights = dict[str, torch.Tensor]
LOOP: dict[str, Any] = {"precision": "float32", "augmentation": "none", "network": {"normalisation": "instance"}}
_SMALLEST_STEP = 1e-6


def weights_of(network: nn.Module, flat: torch.Tensor | None = None) -> Weights:
    """Copies of the parameters of ``network`` by name, with gradient; or views of ``flat`` (P,) in their shapes."""
    held = dict(network.named_parameters())
    if flat is None:
        return {name: item.detach().clone().requires_grad_() for name, item in held.items()}
    parts = flat.split([item.numel() for item in held.values()])
    return {name: part.view(item.shape) for part, (name, item) in zip(parts, held.items(), strict=True)}


def trained_on(
    network: nn.Module,
    weights: Weights,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    step_sizes: Iterable[torch.Tensor],
) -> Weights:
    """``weights`` after a step of gradient descent on each of ``batches``, differentiable with respect to all of them.

    A batch is images (n, C, H, W) and targets: classes (n,), or class probabilities (n, classes).
    """
    for (images, targets), step_size in zip(batches, step_sizes, strict=False):
        loss = F.cross_entropy(widened(functional_call(network, weights, (images,))), targets)
        gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        weights = {
            name: item - step_size * slope for (name, item), slope in zip(weights.items(), gradients, strict=True)
        }
    return weights


def confident_logits(labels: torch.Tensor, classes: int, share: float) -> torch.Tensor:
    """Logits (N, classes) whose softmax is ``share`` for the class of ``labels`` (N,) and equal for the other classes."""
    return math.log(share * (classes - 1) / (1 - share)) * F.one_hot(labels, classes).float()


def check_counts(method: object, *names: str) -> None:
    """Raise ConfigError for a field of ``method`` that is not a whole number of 1 or more."""
    for name in names:
        value = getattr(method, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{name} must be a whole number of 1 or more, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class DatasetDistillation(SetMatcher):
    """DD: images and step sizes with which a new network fits the real images after a few steps.

    ``steps`` is the number of steps, ``step_size`` the initial value of all step sizes, ``step_size_lr`` their learning rate
    (0: they stay fixed).
    """

    steps: int = 10
    step_size: float = 0.1
    step_size_lr: float = 0.01
    loss_scale: float = 1.0

    loop_defaults: ClassVar[Mapping[str, Any]] = {**LOOP, "image_lr": 10.0}

    def __post_init__(self) -> None:
        check_weights(self, "loss_scale", "step_size_lr")
        check_counts(self, "steps")
        if not self.step_size > 0:
            raise ConfigError(f"step_size must be above 0, not {self.step_size}")

    def learned(self, labels: torch.Tensor, classes: int) -> Mapping[str, Learned]:
        """The step sizes, (steps,)."""
        start = torch.full((self.steps,), self.step_size)
        return {STEP_SIZES: Learned(start=start, lr=self.step_size_lr, at_least=_SMALLEST_STEP)}

    def targets(self, step: SetStep) -> torch.Tensor:
        """The targets of the images."""
        return step.labels

    def loss(self, step: SetStep) -> torch.Tensor:
        """Cross entropy of the real batch under the network after its training."""
        batch = step.augment(step.images, step.generator), self.targets(step)
        weights = trained_on(
            step.network, weights_of(step.network), [batch] * self.steps, step.learned[STEP_SIZES].unbind()
        )
        logits = functional_call(step.network, weights, (step.real_images,))
        return self.loss_scale * F.cross_entropy(widened(logits), step.real_labels)

    def held_images(self, images: int, real: int) -> int:
        """The set in each step, twice for second-order gradients, and the real batch."""
        return 2 * self.steps * images + real


@dataclass(frozen=True, kw_only=True)
class LabelDistillation(DatasetDistillation):
    """LD: soft labels with which a new network fits the real images after a few steps on fixed images.

    ``label_lr`` is the learning rate of the labels' logits, ``label_share`` what a label initially gives the image's class.
    """

    label_lr: float = 30.0
    label_share: float = 0.9

    moves_images: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weights(self, "label_lr")
        check_share(self.label_share)

    def learned(self, labels: torch.Tensor, classes: int) -> Mapping[str, Learned]:
        """The labels' logits (N, classes) and the step sizes."""
        start = confident_logits(labels, classes, self.label_share)
        return {**super().learned(labels, classes), LABELS: Learned(start=start, lr=self.label_lr)}

    def targets(self, step: SetStep) -> torch.Tensor:
        """The softmax of the learned logits."""
        return step.per_image(step.learned[LABELS].softmax(1))


def check_share(share: float) -> None:
    """Raise ConfigError for a ``share`` that is not a valid initial value of a label."""
    if not 0 < share < 1:
        raise ConfigError(f"label_share must be above 0 and below 1, not {share}")

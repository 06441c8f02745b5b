"""Trajectory matching: MTT (Cazenavette et al., 2022), and DATM's choices of ages and learned labels (Guo et al., 2024).

Experts are networks trained on the real images and saved at several ages. A student starts from an expert's weights at a drawn
age e, takes N steps on the synthetic images with a learned step size eta, and is compared with the expert M epochs later:

    L = || theta_student,N - theta_expert,e+M ||^2 / || theta_expert,e - theta_expert,e+M ||^2

The experts come from the run's pool, which `atom-cli pool make --every K` fills. Steps use batches of the set in a new order in
each pass, with a separate augmentation of each image, as in the released code.

Young experts go far, and in the direction that the data asks for; late in training, when their learning rate has fallen, they
hardly move, and what is left is noise. L divides by that way, so one late start outweighs hundreds of young ones and throws the
images off. Therefore ``oldest`` is a quarter of the pool's epochs where nothing else is said.

Deviations: the experts have the schedule and augmentation of `pool make`; DATM's ages grow with the iterations, here ``oldest``
is fixed (a second run may start from `--image-init set:FILE`); DATM's labels start from an expert's logits, here from
``label_share``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from atom_plugin.errors import ConfigError
from atom_plugin.matchers.distances import check_weights
from atom_plugin.matchers.set_matcher import LABELS, STEP_SIZES, Learned, SetMatcher, SetStep
from atom_plugin.matchers.unrolled import (
    LOOP,
    check_counts,
    check_share,
    confident_logits,
    trained_on,
    weights_of,
)
from atom_plugin.models.network_pool import NetworkPool
from atom_plugin.transforms.augmentation import DEFAULT_STRATEGY


@dataclass(frozen=True, kw_only=True)
class TrajectoryMatching(SetMatcher):
    """MTT: match the parameters of a student that trains on the set to the expert's parameters.

    ``student_steps`` N, ``expert_epochs`` M, ages from ``youngest`` to ``oldest`` (None: a quarter of the pool's last age),
    ``student_batch`` images a step (None: all). ``step_size`` is the initial eta, ``step_size_lr`` its learning rate. A
    ``label_lr`` above 0 learns soft labels, initially ``label_share`` for the image's class.
    """

    student_steps: int = 20
    expert_epochs: int = 2
    youngest: int = 0
    oldest: int | None = None
    student_batch: int | None = None
    step_size: float = 0.1
    step_size_lr: float = 1e-3
    label_lr: float = 0.0
    label_share: float = 0.9
    loss_scale: float = 1.0

    uses_trajectories: ClassVar[bool] = True
    loop_defaults: ClassVar[Mapping[str, Any]] = {
        **LOOP,
        "augmentation": DEFAULT_STRATEGY,
        "network_state": "trajectory",
        "image_lr": 30.0,
    }

    def __post_init__(self) -> None:
        check_weights(self, "loss_scale", "step_size_lr", "label_lr")
        check_counts(self, "student_steps", "expert_epochs", *(["student_batch"] if self.student_batch else []))
        check_share(self.label_share)
        if not self.step_size > 0:
            raise ConfigError(f"step_size must be above 0, not {self.step_size}")
        if self.youngest < 0 or (self.oldest is not None and self.oldest < self.youngest):
            raise ConfigError(
                f"found ages from {self.youngest} to {self.oldest}, expected 0 or more, with the second at least the first"
            )

    def learned(self, labels: torch.Tensor, classes: int) -> Mapping[str, Learned]:
        """The student's step size (1,), and the labels' logits (N, classes) if they are learned."""
        found = {STEP_SIZES: Learned(start=torch.full((1,), self.step_size), lr=self.step_size_lr, at_least=1e-6)}
        if self.label_lr:
            found[LABELS] = Learned(start=confident_logits(labels, classes, self.label_share), lr=self.label_lr)
        return found

    def check(self, network: nn.Module, pool: NetworkPool | None) -> None:
        """Raises ConfigError without a pool, and for a pool without two ages that are ``expert_epochs`` apart."""
        if pool is None:
            raise ConfigError(
                "found no pool of trained networks, expected one with several ages; make it with  atom-cli pool make "
                "--every 1  and give it with --pool"
            )
        self._starts(pool)

    def _starts(self, pool: NetworkPool) -> list[int]:
        """The possible ages at a student's start."""
        oldest = max(self.youngest, pool.epochs[-1] // 4) if self.oldest is None else self.oldest
        found = [
            age for age in pool.epochs if self.youngest <= age <= oldest and age + self.expert_epochs in pool.epochs
        ]
        if not found:
            raise ConfigError(
                f"found a pool with networks at the epochs {', '.join(map(str, pool.epochs))}, expected two epochs "
                f"{self.expert_epochs} apart, the first from {self.youngest} to {oldest}; lower expert_epochs, or make a pool "
                "with more epochs and  --every 1"
            )
        return found

    def loss(self, step: SetStep) -> torch.Tensor:
        """The squared distance between student's and expert's end, divided by that between the expert's start and end."""
        assert step.pool is not None
        pool, generator, device = step.pool, step.generator, step.images.device
        starts = self._starts(pool)
        expert = pool.weights[int(torch.randint(len(pool), (), generator=generator))]
        age = starts[int(torch.randint(len(starts), (), generator=generator))]
        start, target = (
            expert[pool.epochs.index(each)].to(device, step.images.dtype) for each in (age, age + self.expert_epochs)
        )
        weights = weights_of(step.network, start.clone().requires_grad_())
        sizes = step.learned[STEP_SIZES].expand(self.student_steps).unbind()
        ended = trained_on(step.network, weights, self._batches(step), sizes)
        way = torch.cat([item.flatten() for item in ended.values()]) - target
        return self.loss_scale * way.square().sum() / (start - target).square().sum()

    def _batches(self, step: SetStep) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """An endless sequence of batches, in a new order in each pass."""
        targets = step.labels
        if LABELS in step.learned:
            targets = step.per_image(step.learned[LABELS].softmax(1))
        size = self.student_batch or len(step.images)
        while True:
            for rows in torch.randperm(len(step.images), generator=step.generator).split(size):
                chosen = rows.to(step.images.device)
                yield step.augment(step.images[chosen], step.generator), targets[chosen]

    def held_images(self, images: int, real: int) -> int:
        """A batch in each step, twice for second-order gradients."""
        return 2 * self.student_steps * min(images, self.student_batch or images)

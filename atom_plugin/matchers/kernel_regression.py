"""Kernel ridge regression on a network's features: FRePo (Zhou, Nezhadarya & Ba, 2022).

From the embeddings of the synthetic and the real images, f_S and f_T, a regression predicts the real labels without training:

    P = f_T f_S' (f_S f_S' + lambda tr(f_S f_S') / n I)^-1 Y_S,    L = mean_i 1/2 || P_i - Y_T,i ||^2 + margin(Y_S)

Y_T are one-hot minus 1 / K; Y_S are learned, and start as the same values divided by sqrt(K / 10). The released code's margin
term increases the difference of an image's two largest labels up to 1 / K: margin = - mean min(first - second, 1 / K).

Each iteration draws one of several networks that train on the changing set: the drawn network takes one step of Adam on the
squared error; after ``oldest`` steps it gets new weights. The networks start at different ages.

Deviations: the loop's SGD updates images and labels, the released code uses LAMB; the networks are the loop's ConvNets with
instance normalisation, FRePo's have no normalisation; each image is augmented separately, without added flipped copies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from atom_plugin.errors import ConfigError
from atom_plugin.matchers.distances import check_weights
from atom_plugin.matchers.set_matcher import LABELS, Learned, SetMatcher, SetStep
from atom_plugin.matchers.unrolled import LOOP, check_counts, weights_of
from atom_plugin.models.convnet import ConvNet
from atom_plugin.models.features import widened
from atom_plugin.models.network_pool import NetworkPool, flat_weights, set_weights
from atom_plugin.transforms.augmentation import DEFAULT_STRATEGY

_FIRST, _SECOND, _EPS = 0.9, 0.999, 1e-8  # Adam's


def ridge_predictions(
    real: torch.Tensor, synthetic: torch.Tensor, labels: torch.Tensor, *, ridge: float
) -> torch.Tensor:
    """P (m, K) for embeddings (m, D) and (n, D) and labels (n, K).

    With fewer features than images, the kernel has no full rank, and its inverse magnifies what float32 rounds; the same P is
    then found from the features' (D, D) products.
    """
    count, width = synthetic.shape
    strength = ridge * synthetic.square().sum() / count
    if width < count:
        system, target = synthetic.T @ synthetic, synthetic.T @ labels
    else:
        system, target = synthetic @ synthetic.T, labels
    solved = torch.linalg.solve(system + strength * torch.eye(len(system), device=system.device), target)
    predicted: torch.Tensor = real @ solved if width < count else real @ synthetic.T @ solved
    return predicted


@dataclass(frozen=True, kw_only=True)
class NeuralFeatureRegression(SetMatcher):
    """FRePo: images and labels from which a regression on a young network's features predicts the real labels.

    ``networks`` networks train on the set, for up to ``oldest`` steps of Adam with ``online_lr``. ``label_lr`` is the learning
    rate of the labels (0: they stay fixed), ``ridge`` is lambda.
    """

    networks: int = 10
    oldest: int = 100
    online_lr: float = 3e-4
    label_lr: float = 0.1
    ridge: float = 1e-6
    loss_scale: float = 1.0

    label_kind: ClassVar[str] = "scores"
    loop_defaults: ClassVar[Mapping[str, Any]] = {**LOOP, "augmentation": DEFAULT_STRATEGY, "image_lr": 100.0}

    def __post_init__(self) -> None:
        check_weights(self, "loss_scale", "label_lr", "ridge", "online_lr")
        check_counts(self, "networks", "oldest")

    def check(self, network: nn.Module, pool: NetworkPool | None) -> None:
        """Raises ConfigError for a network that is not a ConvNet, and for a pool, which it does not use."""
        if not isinstance(network, ConvNet):
            raise ConfigError(
                f"frepo needs the embedding of a ConvNet, found a {type(network).__name__}; leave out the matching model"
            )
        if pool is not None:
            raise ConfigError("frepo trains its own networks on the set; leave out the pool")

    def learned(self, labels: torch.Tensor, classes: int) -> Mapping[str, Learned]:
        """The labels Y_S (N, classes)."""
        return {LABELS: Learned(start=_centred(labels, classes) / math.sqrt(classes / 10), lr=self.label_lr)}

    def carried(self, network: nn.Module, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """The networks' weights and Adam's two moments, (networks, P) each, and their ages, evenly spaced below ``oldest``."""
        assert isinstance(network, ConvNet)
        starts = []
        for _ in range(self.networks):
            network.reset(generator)
            starts.append(flat_weights(network))
        weights = torch.stack(starts)
        moments = {name: torch.zeros_like(weights) for name in ("first moment", "second moment")}
        ages = torch.arange(self.networks) * (self.oldest // self.networks)
        return {"weights": weights, **moments, "ages": ages, "steps": torch.zeros_like(ages)}

    def loss(self, step: SetStep) -> torch.Tensor:
        """The error of the predictions, and the margin of the labels."""
        network = step.network
        assert isinstance(network, ConvNet)
        set_weights(network, step.carried["weights"][self._drawn(step)])
        with torch.no_grad():
            real = widened(network.features(step.real_images).embedding)
        synthetic = widened(network.features(step.augment(step.images, step.generator)).embedding)
        labels = step.learned[LABELS]
        classes = labels.shape[1]
        predicted = ridge_predictions(real, synthetic, step.per_image(labels), ridge=self.ridge)
        error = (predicted - _centred(step.real_labels, classes)).square().sum(1).mean() / 2
        top = labels.topk(2, dim=1).values
        margin = (top[:, 0] - top[:, 1]).clamp(max=1 / classes).mean()
        return self.loss_scale * (error - margin)

    def _drawn(self, step: SetStep) -> int:
        """The index of this iteration's network; a generator seeded from the iteration's gives the same index every time."""
        generator = torch.Generator().manual_seed(step.generator.initial_seed() % 2**63)
        return int(torch.randint(self.networks, (), generator=generator))

    def advance(self, step: SetStep) -> None:
        """A step of the drawn network on the current set, or a new network that replaces it."""
        index, carried, network = self._drawn(step), step.carried, step.network
        assert isinstance(network, ConvNet)
        if int(carried["ages"][index]) >= self.oldest:
            network.reset(step.generator)
            carried["weights"][index] = flat_weights(network)
            for name in ("first moment", "second moment", "ages", "steps"):
                carried[name][index] = 0
            return
        images = step.augment(step.images.detach(), step.generator)
        weights = weights_of(network)
        predicted = widened(functional_call(network, weights, (images,)))
        loss = F.mse_loss(predicted, step.per_image(step.learned[LABELS].detach()), reduction="sum") / (2 * len(images))
        gradients = torch.autograd.grad(loss, list(weights.values()))
        self._adam(carried, index, torch.cat([each.flatten() for each in gradients]).cpu())

    def _adam(self, carried: Mapping[str, torch.Tensor], index: int, gradient: torch.Tensor) -> None:
        for name in ("ages", "steps"):
            carried[name][index] += 1
        taken = int(carried["steps"][index])
        first, second = carried["first moment"][index], carried["second moment"][index]
        first.mul_(_FIRST).add_(gradient, alpha=1 - _FIRST)
        second.mul_(_SECOND).addcmul_(gradient, gradient, value=1 - _SECOND)
        size = (second / (1 - _SECOND**taken)).sqrt().add_(_EPS)
        carried["weights"][index].addcdiv_(first, size, value=-self.online_lr / (1 - _FIRST**taken))

    def held_images(self, images: int, real: int) -> int:
        """The set, and the real batch."""
        return images + real


def _centred(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """One-hot (n, classes) minus 1 / classes."""
    return F.one_hot(labels, classes).float() - 1 / classes

"""A network of a run's kind, drawn and trained: on real images before the run, or on a set's images during it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from atom_plugin.datasets import SourceData
from atom_plugin.distillation.set_config import SetConfig
from atom_plugin.models import build_model
from atom_plugin.models.convnet import ConvNet
from atom_plugin.models.feature_layers import matching_mode
from atom_plugin.models.fitting import BATCH_SIZE, SGD, Batches, Course, OnBatch, check_loss, fit
from atom_plugin.models.network_pool import flat_weights, set_weights
from atom_plugin.runtime import distributed
from atom_plugin.runtime.device import long_work
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.transforms.augmentation import Augmentation
from atom_plugin.transforms.preprocessing import Preprocessing


class NetworkTrainer:
    """``network``, of the kind that ``model`` names (:func:`~atom_plugin.models.build_model`); "convnet" is the config's.

    :meth:`pretrain` trains it in place, on real images with the config's augmentation.
    """

    def __init__(
        self,
        config: SetConfig,
        data: SourceData,
        preprocessing: Preprocessing,
        device: torch.device,
        *,
        model: str = "convnet",
    ) -> None:
        self._convnet = config.network
        self._precision = config.precision
        self._data = data
        self._preprocessing = preprocessing
        self._device = device
        self._augmentation = Augmentation(strategy=config.augmentation)
        self._model = model
        self.network = self._fresh(generator_for(config.seed, "network"))
        self.network.requires_grad_(False).to(memory_format=torch.channels_last).to(device)
        matching_mode(self.network)

    def _fresh(self, generator: torch.Generator) -> nn.Module:
        """A network of the run's kind, drawn from ``generator``, on the CPU."""
        data, convnet = self._data, self._convnet
        return build_model(self._model, data.image_shape, len(data.class_names), generator=generator, convnet=convnet)

    def _redraw(self, network: nn.Module, generator: torch.Generator) -> None:
        """Draw all parameters of ``network``, one of the run's kind, again, in place, from ``generator``."""
        if isinstance(network, ConvNet):
            network.reset(generator)
        else:
            network.load_state_dict(self._fresh(generator).state_dict())

    def pretrain(self, epochs: int, generator: torch.Generator, on_batch: OnBatch | None = None) -> None:
        """Draw the network again and train it for ``epochs`` on the real images, with the SGD of evaluations.

        Raises DivergenceError if the loss is no longer finite.
        """
        self._redraw(self.network, generator)
        train = self._data.train
        batches = self._batches(
            lambda rows: self._preprocessing.forward(train.rows(rows).to(self._device)), train.labels.to(self._device)
        )
        course = Course(epochs=epochs, precision=self._precision, on_batch=on_batch)
        with long_work(self._device):
            loss = self._fit(batches, SGD().over(self.network), course, generator)
        check_loss(loss, "choose another preprocessing or normalisation")

    @property
    def parameters(self) -> int:
        """The number P of the network's parameters."""
        return sum(each.numel() for each in self.network.parameters())

    def fresh_weights(self, generator: torch.Generator) -> torch.Tensor:
        """The parameters (P,) of a network drawn from ``generator``; the network has them too."""
        self._redraw(self.network, generator)
        return flat_weights(self.network)

    def train_on(
        self, rows: torch.Tensor, weights: torch.Tensor, momentum: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Train the network from ``weights`` and ``momentum`` (P,) in one pass over the real images ``rows``, not augmented.

        Returns the new weights, the new momentum and the accuracy, in [0, 1], of each batch before its step. Raises
        DivergenceError if the loss is no longer finite.
        """
        set_weights(self.network, weights)
        optimizer, train = SGD().over(self.network), self._data.train
        parts = momentum.split([each.numel() for each in self.network.parameters()])
        for each, part in zip(self.network.parameters(), parts, strict=True):
            optimizer.state[each]["momentum_buffer"] = part.view(each.shape).to(each.device, copy=True)
        labels, right = train.labels[rows].to(self._device), torch.zeros((), device=self._device)

        def batch(places: torch.Tensor, _: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
            images = train.rows(rows[places]).to(self._device)
            return self._preprocessing.forward(images), labels[places.to(self._device)]

        def count(places: torch.Tensor, logits: torch.Tensor) -> None:
            right.add_((logits.argmax(1) == labels[places.to(self._device)]).sum())

        course = Course(epochs=1, precision=self._precision, on_batch=count)
        loss = self._fit(Batches(count=len(rows), size=BATCH_SIZE, of=batch), optimizer, course, generator)
        check_loss(loss, "choose another preprocessing or normalisation")
        buffers = [optimizer.state[each]["momentum_buffer"].cpu().reshape(-1) for each in self.network.parameters()]
        return flat_weights(self.network), torch.cat(buffers), float(right) / len(rows)

    def _batches(self, images_of: Callable[[torch.Tensor], torch.Tensor], labels: torch.Tensor) -> Batches:
        """The images of ``images_of`` for indices (n,), each image augmented separately with the run's augmentation."""

        def batch(rows: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
            return self._augmentation.per_sample(images_of(rows), generator), labels[rows.to(labels.device)]

        return Batches(count=len(labels), size=BATCH_SIZE, of=batch)

    def _fit(
        self, batches: Batches, optimizer: torch.optim.Optimizer, course: Course, generator: torch.Generator
    ) -> float:
        """Train the network, the same in all processes; returns the largest of their losses."""
        self.network.train().requires_grad_(True)
        loss = fit(self.network, batches, optimizer, course, generator)
        optimizer.zero_grad(set_to_none=True)
        self.network.requires_grad_(False)
        matching_mode(self.network)
        distributed.agree([*self.network.parameters(), *self.network.buffers()])
        return distributed.highest(loss)

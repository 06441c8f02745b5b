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

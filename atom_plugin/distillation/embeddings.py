"""Embeddings of images under one network, random or trained, for herding, k-center and pictures of a set."""

from __future__ import annotations

from collections.abc import Callable

import torch

from atom_plugin.datasets import SourceData
from atom_plugin.distillation.network_trainer import NetworkTrainer
from atom_plugin.distillation.set_config import SetConfig, trained_epochs
from atom_plugin.models.batchnorm import batch_norms, measure_moments
from atom_plugin.models.convnet import ConvNet
from atom_plugin.runtime.device import long_work
from atom_plugin.transforms.preprocessing import Preprocessing

_BATCH = 64
_MOMENT_BATCHES = 16  # 1,024 images say enough of means and variances


def embedding_network(
    config: SetConfig,
    data: SourceData,
    preprocessing: Preprocessing,
    *,
    generator: torch.Generator,
    device: torch.device,
    on_images: Callable[[int], object] | None = None,
) -> ConvNet:
    """The config's network, drawn from ``generator``, trained if ``config.embedding`` asks for it, in evaluation mode.

    Training is :meth:`~atom_plugin.distillation.network_trainer.NetworkTrainer.pretrain`; ``on_images`` is called with the
    number of images of each batch. The batch normalisation of a random network gets the moments of up to 1,024 real images, so
    that an image's embedding does not depend on other images. ``config.precision`` must be resolved. Raises DivergenceError if
    training diverges.
    """
    prepared = preprocessing.to(device)
    holder = NetworkTrainer(config, data, prepared, device)
    network = holder.network
    assert isinstance(network, ConvNet)
    if epochs := trained_epochs(config.embedding_state, "embedding"):
        holder.pretrain(epochs, generator, None if on_images is None else lambda rows, _: on_images(len(rows)))
    else:
        network.reset(generator)
        if batch_norms(network):
            drawn = torch.randperm(len(data.train), generator=generator)[: _MOMENT_BATCHES * _BATCH]
            batches = (prepared.forward(data.train.rows(rows).to(device)) for rows in drawn.split(_BATCH))
            measure_moments(network, (batch.contiguous(memory_format=torch.channels_last) for batch in batches))
    return network.eval()


@torch.no_grad()
def embed(network: ConvNet, images: torch.Tensor, preprocessing: Preprocessing | None = None) -> torch.Tensor:
    """(N, D) float32 on the CPU, of ``images`` (N, C, H, W), in batches, so that the maps of only 64 images are in memory.

    ``preprocessing`` is for real images, uint8; without one, images are already preprocessed.
    """
    device = network.classifier.weight.device
    prepare = None if preprocessing is None else preprocessing.to(device)
    embeddings = torch.empty(len(images), network.classifier.in_features)
    with long_work(device):
        for target, batch in zip(embeddings.split(_BATCH), images.split(_BATCH), strict=True):
            ready = batch.to(device) if prepare is None else prepare.forward(batch.to(device))
            target.copy_(network.features(ready.contiguous(memory_format=torch.channels_last)).embedding)
    return embeddings

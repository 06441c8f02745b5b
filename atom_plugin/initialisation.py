"""What synthetic images start from: real images, chosen at random, by herding or k-center, or noise."""

from __future__ import annotations

import torch

from atom_plugin.config import DistillConfig
from atom_plugin.memory import reuse_freed_memory
from atom_plugin.networks import ConvNetConfig
from atom_plugin.preprocessing import Preprocessing
from atom_plugin.randomness import generator_for
from atom_plugin.selection import select
from atom_plugin.sources import SourceData

_EMBED_BATCH = 64


def initial_images(config: DistillConfig, data: SourceData, preprocessing: Preprocessing) -> torch.Tensor:
    """Float32 (K * ipc, C, H, W), class-major, preprocessed. Raises SourceError where a class has too few images."""
    generator = generator_for(config.seed, "initialise")
    if config.initialiser == "noise":
        return torch.randn(len(data.class_names) * config.ipc, *data.image_shape, generator=generator)
    embeddings = None
    if config.initialiser != "random":
        embeddings = random_embeddings(config.network, data, preprocessing, generator)
    chosen = select(
        config.initialiser,
        data.train.labels,
        config.ipc,
        generator=generator,
        embeddings=embeddings,
        class_names=data.class_names,
    )
    return preprocessing.forward(data.train.rows(chosen))


@torch.no_grad()
def random_embeddings(
    config: ConvNetConfig, data: SourceData, preprocessing: Preprocessing, generator: torch.Generator
) -> torch.Tensor:
    """(N, D) embeddings of all training images under one random network."""
    network = config.build(data.image_shape, len(data.class_names), generator=generator)
    network.to(memory_format=torch.channels_last)
    with reuse_freed_memory():
        batches = (preprocessing.forward(batch) for batch in data.train.images.split(_EMBED_BATCH))
        return torch.cat(
            [network.features(batch.contiguous(memory_format=torch.channels_last)).embedding for batch in batches]
        )

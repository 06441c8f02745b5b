"""What synthetic images start from, and what a selection consists of: real images, chosen by some method, or noise.

The methods are those of :mod:`~atom_plugin.distillation.selection`. Herding and k-center compare embeddings under one
network, which is random, or trained on the real images (``DistillConfig.embedding``: "random", "trained:EPOCHS"); forgetting
counts events while one network trains on them (``forgetting_epochs``).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from atom_plugin.datasets import SourceData, Split
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.embeddings import embed, embedding_network
from atom_plugin.distillation.forgetting import ForgettingCounter
from atom_plugin.distillation.matching_network import MatchingNetwork
from atom_plugin.distillation.selection import check_counts, select
from atom_plugin.models.convnet import ConvNet
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.transforms.preprocessing import Preprocessing


def initial_images(
    config: DistillConfig,
    data: SourceData,
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    on_images: Callable[[int], object] | None = None,
) -> torch.Tensor:
    """Float32 (K * ipc, C, H, W), class-major, preprocessed, on the CPU; ``config.precision`` must be resolved.

    Where a network is trained to choose, on ``device``, ``on_images`` is told how many images each batch had. Raises
    SourceError where a class has too few images, DivergenceError where that training blows up.
    """
    generator = generator_for(config.seed, "initialise")
    if config.initialiser == "noise":
        return torch.randn(len(data.class_names) * config.ipc, *data.image_shape, generator=generator)
    events = None
    check_counts(data.train.labels, config.ipc, data.class_names)  # before any training
    if config.initialiser == "forgetting":
        events = forgetting_events(config, data, preprocessing, generator, device=device, on_images=on_images)
    elif config.initialiser != "random":
        network = embedding_network(
            config,
            data,
            preprocessing,
            state=config.embedding,
            generator=generator,
            device=device,
            on_images=on_images,
        )
        return preprocessing.forward(
            data.train.rows(_class_by_class(config, data.train, preprocessing, network, generator))
        )
    chosen = select(
        config.initialiser,
        data.train.labels,
        config.ipc,
        generator=generator,
        events=events,
        class_names=data.class_names,
    )
    return preprocessing.forward(data.train.rows(chosen))


def _class_by_class(
    config: DistillConfig, train: Split, preprocessing: Preprocessing, network: ConvNet, generator: torch.Generator
) -> torch.Tensor:
    """What :func:`select` chooses by embeddings, int64 (K * ipc,), with those of one class in memory at a time."""
    order = train.labels.argsort(stable=True)
    chosen = []
    for members in order.split(train.labels.bincount().tolist()):
        if len(members):
            embeddings = embed(network, train.rows(members), preprocessing)
            picks = select(
                config.initialiser, train.labels[members], config.ipc, generator=generator, embeddings=embeddings
            )
            chosen.append(members[picks])
    return torch.cat(chosen)


def forgetting_events(
    config: DistillConfig,
    data: SourceData,
    preprocessing: Preprocessing,
    generator: torch.Generator,
    *,
    device: torch.device,
    on_images: Callable[[int], object] | None = None,
) -> torch.Tensor:
    """Forgetting events of every training image, float64 (N,), in the training of one network.

    It trains for ``config.forgetting_epochs``, and is drawn from ``generator``, as are its batches. Raises DivergenceError
    where it blows up.
    """
    counter = ForgettingCounter(data.train.labels)

    def observe(rows: torch.Tensor, logits: torch.Tensor) -> None:
        counter.update(rows, logits)
        if on_images is not None:
            on_images(len(rows))

    trainer = MatchingNetwork(config, data, preprocessing.to(device), device)
    trainer.pretrain(config.forgetting_epochs, generator, observe)
    return counter.scores()

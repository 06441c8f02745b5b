"""Selected real images: the initial images of a distillation, and as a set its baseline.

The methods are in :mod:`~atom_plugin.distillation.selection`. Herding and k-center compare embeddings under one network, which
is random, or trained on the real images (``embedding``: "random", "trained:EPOCHS"); forgetting counts events while one network
trains on them (``forgetting_epochs``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from atom_plugin.datasets import SourceData, Split
from atom_plugin.distillation.embeddings import embed, embedding_network
from atom_plugin.distillation.network_trainer import NetworkTrainer
from atom_plugin.distillation.provenance import assemble
from atom_plugin.distillation.select_config import SelectConfig
from atom_plugin.distillation.selection import ForgettingCounter, check_counts, select
from atom_plugin.distillation.set_config import SetConfig
from atom_plugin.errors import require
from atom_plugin.models.convnet import ConvNet
from atom_plugin.runtime.device import resolve_device, resolve_precision
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.packing import pack
from atom_plugin.transforms.preprocessing import Preprocessing


def selected_set(
    config: SelectConfig,
    data: SourceData,
    *,
    preprocessing: Preprocessing | None = None,
    device: str = "auto",
    on_images: Callable[[int], object] | None = None,
) -> SyntheticSet:
    """Real images selected by ``config.method``, not optimised: a baseline.

    ``preprocessing`` None fits the config's preprocessing. A network for the selection runs on ``device``; ``on_images`` is
    called with the number of images of each training batch. Raises SourceError if a class has fewer images than the IPC.
    """
    require("config", config, SelectConfig)
    require("data", data, SourceData)
    on = resolve_device(device)
    config = replace(config, precision=resolve_precision(config.precision, on))
    prepared = preprocessing or config.fit_preprocessing(data)
    pixels = chosen_pixels(config, data, prepared, device=on, on_images=on_images)
    images = pixels.float() / 255 if config.storage == "uint8" else prepared.forward(pixels)
    return assemble(pack(images, config.factor), config, data, prepared)


def chosen_pixels(
    config: SetConfig,
    data: SourceData,
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    on_images: Callable[[int], object] | None = None,
) -> torch.Tensor:
    """uint8 (K * ipc * factor^2, C, H, W), class-major, on the CPU: real images, selected by ``config.choice``.

    ``config.precision`` must be resolved. If a network is trained for the selection, on ``device``, ``on_images`` is called
    with the number of images of each batch. Raises SourceError if a class has too few images, DivergenceError if that training
    diverges.
    """
    generator = generator_for(config.seed, "initialise")
    count = config.ipc * config.tiles
    check_counts(data.train.labels, count, data.class_names)  # before any training
    if config.choice in ("herding", "k-center"):
        network = embedding_network(
            *(config, data, preprocessing),
            generator=generator,
            device=device,
            on_images=on_images,
        )
        chosen = _class_by_class(config, data.train, preprocessing, network, generator)
    else:
        events = None
        if config.choice == "forgetting":
            events = forgetting_events(config, data, preprocessing, generator, device=device, on_images=on_images)
        chosen = select(
            *(config.choice, data.train.labels, count),
            generator=generator,
            events=events,
            class_names=data.class_names,
        )
    return data.train.rows(chosen)


def _class_by_class(
    config: SetConfig, train: Split, preprocessing: Preprocessing, network: ConvNet, generator: torch.Generator
) -> torch.Tensor:
    """The selection of :func:`select` by embeddings, int64 (K * ipc * factor^2,), with one class's embeddings in memory at a
    time.
    """
    order = train.labels.argsort(stable=True)
    chosen = []
    for members in order.split(train.labels.bincount().tolist()):
        if len(members):
            embeddings = embed(network, train.rows(members), preprocessing)
            count = config.ipc * config.tiles
            picks = select(config.choice, train.labels[members], count, generator=generator, embeddings=embeddings)
            chosen.append(members[picks])
    return torch.cat(chosen)


def forgetting_events(
    config: SetConfig,
    data: SourceData,
    preprocessing: Preprocessing,
    generator: torch.Generator,
    *,
    device: torch.device,
    on_images: Callable[[int], object] | None = None,
) -> torch.Tensor:
    """Forgetting events of every training image, float64 (N,), in the training of one network.

    It trains for ``config.choosing_epochs``; ``generator`` draws its weights and its batches. Raises DivergenceError if it
    diverges.
    """
    counter = ForgettingCounter(data.train.labels)

    def observe(rows: torch.Tensor, logits: torch.Tensor) -> None:
        counter.update(rows, logits)
        if on_images is not None:
            on_images(len(rows))

    trainer = NetworkTrainer(config, data, preprocessing.to(device), device)
    trainer.pretrain(config.choosing_epochs, generator, observe)
    return counter.scores()

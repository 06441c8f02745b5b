"""Put a set together from images, the run that made them, and the real images it was made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from atom_plugin.datasets import SourceData
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.image_init import initial_images
from atom_plugin.runtime.device import resolve_device, resolve_precision
from atom_plugin.runtime.versions import package_versions
from atom_plugin.store.provenance import Provenance
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing


def assemble(
    images: torch.Tensor,
    config: DistillConfig,
    data: SourceData,
    preprocessing: Preprocessing,
    *,
    method: str,
    iterations: int,
    final_loss: float | None,
) -> SyntheticSet:
    """The set of ``images`` (K * ipc, C, H, W), class-major, with all that says where it comes from."""
    provenance = Provenance(
        method=method,
        seed=config.seed,
        config=config.to_json(),
        source={"name": data.name, "options": data.options, "fingerprint": data.fingerprint},
        versions=package_versions(),
        iterations=iterations,
        final_loss=final_loss,
    )
    return SyntheticSet(
        images=images,
        labels=torch.arange(len(data.class_names)).repeat_interleave(config.ipc),
        class_names=data.class_names,
        preprocessing=preprocessing,
        provenance=provenance,
    )


def fit_preprocessing(config: DistillConfig, data: SourceData) -> Preprocessing:
    """What the config asks for, fitted on the real training images."""
    return Preprocessing.fit(
        data.train, standardise=config.standardise, mean=data.mean, std=data.std, zca_eps=config.zca_eps
    )


def selected_set(
    config: DistillConfig,
    data: SourceData,
    *,
    preprocessing: Preprocessing | None = None,
    device: str = "auto",
    on_images: Callable[[int], object] | None = None,
) -> SyntheticSet:
    """Real images chosen by ``config.initialiser``, never optimised: a selection baseline.

    ``preprocessing`` None fits what the config asks for. A network that chooses runs on ``device``; ``on_images`` is
    told how many images each batch of its training had. Raises SourceError where a class has fewer images than the IPC.
    """
    on = resolve_device(device)
    config = replace(config, precision=resolve_precision(config.precision, on))
    prepared = preprocessing or fit_preprocessing(config, data)
    images = initial_images(config, data, prepared, device=on, on_images=on_images)
    return assemble(images, config, data, prepared, method=config.initialiser, iterations=0, final_loss=None)

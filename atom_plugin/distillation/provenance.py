"""Make a set from its images, with its provenance."""

from __future__ import annotations

import torch

from atom_plugin.datasets import SourceData
from atom_plugin.distillation.set_config import SetConfig
from atom_plugin.runtime.versions import package_versions
from atom_plugin.store.provenance import Provenance
from atom_plugin.store.synthetic_set import STORAGE_TYPES, SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing, to_uint8


def assemble(
    images: torch.Tensor,
    config: SetConfig,
    data: SourceData,
    preprocessing: Preprocessing,
    *,
    iterations: int = 0,
    final_loss: float | None = None,
) -> SyntheticSet:
    """The set of ``images`` (K * ipc, C, H, W), class-major, that ``config`` made from ``data``.

    They are float32: in [0, 1] if the config stores uint8, else preprocessed.
    """
    provenance = Provenance(
        method=config.made_by,
        seed=config.seed,
        config=config.to_json(),
        source={"name": data.name, "options": data.options, "fingerprint": data.fingerprint},
        versions=package_versions(),
        iterations=iterations,
        final_loss=final_loss,
    )
    return SyntheticSet(
        images=to_uint8(images) if config.storage == "uint8" else images.to(STORAGE_TYPES[config.storage]),
        labels=torch.arange(len(data.class_names)).repeat_interleave(config.ipc),
        class_names=data.class_names,
        preprocessing=preprocessing,
        provenance=provenance,
        factor=config.factor,
    )

"""A set from its images, with all that says where it comes from."""

from __future__ import annotations

import torch

from atom_plugin.datasets import SourceData
from atom_plugin.distillation.set_config import SetConfig
from atom_plugin.runtime.versions import package_versions
from atom_plugin.store.provenance import Provenance
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing


def assemble(
    images: torch.Tensor,
    config: SetConfig,
    data: SourceData,
    preprocessing: Preprocessing,
    *,
    iterations: int = 0,
    final_loss: float | None = None,
) -> SyntheticSet:
    """The set of ``images`` (K * ipc, C, H, W), class-major, that ``config`` made of ``data``."""
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
        images=images,
        labels=torch.arange(len(data.class_names)).repeat_interleave(config.ipc),
        class_names=data.class_names,
        preprocessing=preprocessing,
        provenance=provenance,
    )

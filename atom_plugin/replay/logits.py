"""Logits of a memory's images: the learner's own outputs, stored when an experience ends, as targets of its later training.

Buzzega et al., "Dark Experience for General Continual Learning" (2020): a memory image x whose stored logits are z adds
``alpha * ||z - h(x)||^2`` to the loss of the learner h (DER), and its class may add the cross-entropy as well (DER++).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from atom_plugin.errors import ConfigError, unknown

LABELS = ("hard", "logits", "both")
"""What the memory's images are trained with: their classes; their logits (DER); or both (DER++)."""
LOGIT_WEIGHT = 0.1
"""Default alpha; docs/continual-learning.md has its effect."""


def logit_bytes(tiles: int, classes: int) -> int:
    """The bytes of a stored image's logits: float16, ``classes`` for each of its ``tiles``."""
    return tiles * classes * torch.float16.itemsize


def empty_logits(images: int, tiles: int, classes: int) -> torch.Tensor:
    """Logits (images, tiles, classes), float16, of which none is known yet: NaN."""
    return torch.full((images, tiles, classes), float("nan"), dtype=torch.float16)


def widened(logits: torch.Tensor, classes: int) -> torch.Tensor:
    """``logits`` (images, tiles, fewer) with ``classes`` columns: the new ones are not known."""
    images, tiles, had = logits.shape
    return torch.cat([logits, empty_logits(images, tiles, classes - had)], dim=2)


@dataclass(frozen=True, kw_only=True)
class MemoryLabels:
    """What a learner is trained with on memory images: ``kind`` is one of :data:`LABELS`, ``weight`` is DER's alpha.

    Images without stored logits are trained with their class under any kind. Raises ConfigError for another kind, and for a
    weight that is not above 0.
    """

    kind: str = "hard"
    weight: float = LOGIT_WEIGHT

    def __post_init__(self) -> None:
        if self.kind not in LABELS:
            raise ConfigError(unknown("kind of memory labels", self.kind, LABELS))
        if not 0 < self.weight < float("inf"):
            raise ConfigError(f"logit_weight must be a number above 0, not {self.weight}; for none, take hard labels")

    @property
    def soft(self) -> bool:
        """Whether stored logits are used."""
        return self.kind != "hard"

    def apply(self, outputs: torch.Tensor, stored: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """What the loss of the classes takes in the place of ``outputs`` (n, heads), and the loss of the logits, a scalar.

        ``stored`` (n, classes), on any device, are the stored logits of the same images, NaN where unknown. Under the kind
        "logits" the outputs of images that have some are detached: their cross-entropy has no gradient.
        """
        if stored is None or not self.soft:
            return outputs, outputs.new_zeros(())
        stored = stored.to(outputs.device)
        if self.kind == "logits":
            has_logits = stored.isfinite().any(1, keepdim=True)
            return torch.where(has_logits, outputs.detach(), outputs), self.weight * logit_loss(outputs, stored)
        return outputs, self.weight * logit_loss(outputs, stored)


def logit_loss(outputs: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
    """The mean squared difference of ``outputs`` (n, heads) and ``stored`` (n, classes), over the logits that are known.

    A head that has grown since compares its first outputs only, a class that was not known then (NaN) is left out. The mean
    over images and classes is that of the authors' code; the paper's equation has the sum over classes. 0 if none is known.
    """
    width = min(outputs.shape[1], stored.shape[1])
    outputs, stored = outputs[:, :width].float(), stored[:, :width].float()
    known = stored.isfinite()
    differences = outputs - torch.where(known, stored, outputs.detach())
    return differences.square().sum() / known.sum().clamp_min(1)

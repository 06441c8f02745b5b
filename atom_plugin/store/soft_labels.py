"""Soft labels: a value of each image for every class, learned with the images or given by a teacher network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from atom_plugin.errors import ConfigError, require, unknown

KINDS = ("probabilities", "logits", "scores")
"""Probabilities: rows that sum to 1; logits: values before softmax; scores: targets of a regression (kernel methods)."""

_OFF_ONE = 1e-3  # tolerance of a row's sum: a conversion to float16 changes each probability by up to 5e-4 of it


@dataclass(frozen=True, kw_only=True, eq=False)
class SoftLabels:
    """``values`` float32 (N, classes) on the CPU; ``kind`` is one of :data:`KINDS`.

    Networks learn probabilities and logits by cross-entropy, scores by mean squared error. Raises ConfigError for other types
    and shapes, for values that are not finite, and for probabilities that are negative or do not sum to 1.
    """

    values: torch.Tensor
    kind: str

    def __post_init__(self) -> None:
        require("soft labels", self.values, torch.Tensor)
        if self.kind not in KINDS:
            raise ConfigError(unknown("kind of soft labels", self.kind, KINDS))
        values = self.values
        if values.dtype != torch.float32 or values.ndim != 2 or values.device.type != "cpu" or not values.shape[1]:
            raise ConfigError(
                f"soft labels must be float32 (images, classes) on the CPU, not {values.dtype} {tuple(values.shape)} on "
                f"{values.device}; convert them"
            )
        if not bool(torch.isfinite(values).all()):
            count = int(torch.isfinite(values).logical_not().sum())
            raise ConfigError(
                f"found {count} of {values.numel()} soft label values not finite, expected none; make them again"
            )
        if self.kind == "probabilities" and len(values):
            self._check_probabilities()

    def _check_probabilities(self) -> None:
        low, sums = float(self.values.min()), self.values.sum(1)
        if low < 0:
            raise ConfigError(
                f"found probabilities down to {low:.4g}, expected 0 or more; if they are logits or scores, give that kind"
            )
        furthest = int((sums - 1).abs().argmax())
        if abs(float(sums[furthest]) - 1) > _OFF_ONE:
            raise ConfigError(
                f"the probabilities of image {furthest} sum to {float(sums[furthest]):.4g}, expected 1; are they logits or "
                "scores?"
            )

    def __len__(self) -> int:
        return len(self.values)

    @property
    def classes(self) -> int:
        """The number of values of each image."""
        return self.values.shape[1]

    @property
    def nbytes(self) -> int:
        """The bytes of the values in a file."""
        return self.values.numel() * self.values.element_size()

    def at(self, rows: torch.Tensor | slice) -> SoftLabels:
        """The soft labels at ``rows``."""
        return replace(self, values=self.values[rows if isinstance(rows, slice) else rows.cpu()])

    def repeated(self, times: int) -> SoftLabels:
        """Each soft label repeated ``times`` times, because the tiles of a packed image share its soft label."""
        return replace(self, values=self.values.repeat_interleave(times, dim=0))

    def targets(self, temperature: float = 1.0) -> torch.Tensor:
        """The training targets, float32 (N, classes): probabilities, or the unchanged scores.

        ``temperature`` divides logits, or the logarithms of probabilities, before the softmax; values above 1 make the
        probabilities more equal. Raises ConfigError for a temperature that is not above 0, and for any but 1 with scores.
        """
        if not 0 < temperature < float("inf"):
            raise ConfigError(f"temperature must be a number above 0, not {temperature}")
        if self.kind == "logits":
            return (self.values / temperature).softmax(1)
        if temperature == 1:
            return self.values
        if self.kind == "scores":
            raise ConfigError(f"found temperature {temperature:g}, but scores have none; leave it out")
        return (self.values.log() / temperature).softmax(1)


def joined(parts: Sequence[SoftLabels | None], *, names: Sequence[str]) -> SoftLabels | None:
    """The concatenated soft labels; None if no part has any.

    Raises ConfigError, with the parts' ``names``, if parts differ in kind, or if only some have soft labels.
    """
    held = [part for part in parts if part is not None]
    if not held:
        return None
    for other, name in zip(parts, names, strict=True):
        if other is None or other.kind != held[0].kind:
            first = names[next(place for place, part in enumerate(parts) if part is not None)]
            found = "no soft labels" if other is None else f"soft labels that are {other.kind}"
            raise ConfigError(
                f"{first} has soft labels that are {held[0].kind}, {name} has {found}; join sets that have the same kind"
            )
    return replace(held[0], values=torch.cat([part.values for part in held]))

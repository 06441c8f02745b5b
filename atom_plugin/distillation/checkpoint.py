"""Checkpoints of a run: enough to continue to the very bytes that an undisturbed run writes."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from atom_plugin.distillation.config import DistillConfig
from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.runtime.files import write_bytes

_FORMAT = "atom-plugin/checkpoint"
_VERSION = 2  # 2 has ``network``; 1 is read as before


def is_checkpoint(path: Path) -> bool:
    """Whether the file says that it is a checkpoint of this package; it may be damaged."""
    with path.open("rb") as file:
        return _FORMAT.encode() in file.read(1 << 16)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state after ``iteration`` iterations: ``images`` (K * ipc, C, H, W) and their ``momentum`` (None at first).

    ``network`` is that of a network the next iteration goes on with; None where it draws one. ``loss`` is that of the last
    iteration; None where it is not known.
    """

    iteration: int
    images: torch.Tensor
    momentum: torch.Tensor | None
    config: DistillConfig
    fingerprint: str
    network: dict[str, Any] | None = None
    loss: float | None = None

    def save(self, path: Path) -> None:
        """Write to ``path``, atomically. Raises StoreError where that fails."""
        state: dict[str, Any] = {
            "format": _FORMAT,
            "version": _VERSION,
            "iteration": self.iteration,
            "images": self.images.cpu(),
            "momentum": None if self.momentum is None else self.momentum.cpu(),
            "config": self.config.to_json(),
            "fingerprint": self.fingerprint,
            "network": self.network,
            "loss": self.loss,
        }
        # Serialised in memory first: torch's own writer reports a full disk as an internal error.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_bytes(path, buffer.getbuffer(), force=True)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read ``path``. Raises StoreError where it is missing, damaged, or of a newer version."""
        advice = "delete it to start over"
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise StoreError(f"{path}: no checkpoint there; run without --resume to start") from None
        except Exception as error:  # torch.load raises whatever its zip and pickle readers meet
            raise StoreError(f"{path}: not a readable checkpoint ({type(error).__name__}); {advice}") from error
        if not isinstance(state, dict) or state.get("format") != _FORMAT:
            raise StoreError(f"{path}: a torch file, but no checkpoint of this package; {advice}")
        if state["version"] > _VERSION:
            raise StoreError(f"{path}: checkpoint version {state['version']}, this release reads {_VERSION}; update")
        return cls(
            iteration=state["iteration"],
            images=state["images"],
            momentum=state["momentum"],
            config=DistillConfig.from_json(state["config"]),
            fingerprint=state["fingerprint"],
            network=state.get("network"),
            loss=state.get("loss"),
        )

    def check(self, config: DistillConfig, fingerprint: str, path: Path) -> None:
        """Raises ConfigError unless this is a state of the run that ``config`` and the source describe."""
        differences = config.differences(self.config)
        if differences:
            raise ConfigError(
                f"{path}: the checkpoint was made with other options ({'; '.join(differences)}); give the same, or run "
                "without --resume and with --force to start over"
            )
        if fingerprint != self.fingerprint:
            raise ConfigError(
                f"{path}: the checkpoint was made from other images; give the same data and --validation, or start over"
            )

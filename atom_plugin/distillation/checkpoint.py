"""Checkpoints of a run: enough to continue to exactly the bytes of an uninterrupted run."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import torch

from atom_plugin.datasets import SourceData
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.errors import AtomError, ConfigError, StoreError, shown
from atom_plugin.runtime import bounded_json
from atom_plugin.runtime.files import write_bytes
from atom_plugin.store.formats.archives import refuse_bomb

_FORMAT = "atom-plugin/checkpoint"
_VERSION = 3  # 2 has ``network``, 3 ``learned``; older ones are read as before
_ADVICE = "delete it to start over"
_KINDS: dict[str, tuple[type, ...]] = {
    **{"iteration": (int,), "images": (torch.Tensor,), "momentum": (torch.Tensor, NoneType), "config": (dict,)},
    **{"fingerprint": (str,), "network": (dict, NoneType), "loss": (float, NoneType), "learned": (dict, NoneType)},
}
_OPTIONAL = ("network", "loss", "learned")


def is_checkpoint(path: Path) -> bool:
    """Whether the file claims to be a checkpoint of this package; it may be damaged."""
    with path.open("rb") as file:
        return _FORMAT.encode() in file.read(1 << 16)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state after ``iteration`` iterations: ``images`` (K * ipc, C, H, W) and their ``momentum`` (None at first).

    ``network`` is the state of a network that the next iteration still uses; None if it draws one. ``loss`` is the loss of the
    last iteration; None if unknown. ``learned`` are the values that a matcher of whole sets optimises besides the images, and
    the matcher's state (:mod:`.set_matching`); None for other matchers.
    """

    iteration: int
    images: torch.Tensor
    momentum: torch.Tensor | None
    config: DistillConfig
    fingerprint: str
    network: dict[str, Any] | None = None
    loss: float | None = None
    learned: Mapping[str, Mapping[str, torch.Tensor]] | None = None

    def save(self, path: Path) -> None:
        """Write to ``path``, atomically. Raises StoreError if that fails."""
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
            "learned": self.learned,
        }
        # Serialised in memory first: torch's own writer reports a full disk as an internal error.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_bytes(path, buffer.getbuffer(), force=True)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read ``path`` and check every value. Raises StoreError if it is missing, damaged, foreign or newer."""
        state = _loaded(path)
        version = state.get("version")
        if type(version) is not int or version < 1:
            raise StoreError(f"{path}: found checkpoint version {shown(version)}, expected 1 to {_VERSION}; {_ADVICE}")
        if version > _VERSION:
            raise StoreError(f"{path}: checkpoint version {version}, this release reads {_VERSION}; update")
        try:
            return cls._of(state)
        except (AtomError, ValueError) as error:
            raise StoreError(f"{path}: a damaged or foreign checkpoint: {error}; {_ADVICE}") from error

    @classmethod
    def _of(cls, state: Mapping[str, Any]) -> Checkpoint:
        """A checkpoint from the values in a file, each checked. Raises StoreError, ConfigError or ValueError."""
        for name, kinds in _KINDS.items():
            if name not in state and name not in _OPTIONAL:
                raise StoreError(f"found no {name}")
            if not isinstance(state.get(name), kinds) or isinstance(state.get(name), bool):
                words = " or ".join("nothing" if kind is NoneType else kind.__name__ for kind in kinds)
                raise StoreError(f"found {name} {shown(state[name])}, expected {words}")
        if state["iteration"] < 0:
            raise StoreError(f"found iteration {state['iteration']}, expected 0 or more")
        if state.get("loss") is not None and not math.isfinite(state["loss"]):
            raise StoreError(f"found loss {state['loss']}, expected a finite number")
        images, momentum = state["images"], state["momentum"]
        for name, tensor in (("images", images), ("momentum", momentum)):
            if tensor is not None:
                _check_images(name, tensor, images)
        bounded_json.check(state["config"])
        values: dict[str, Any] = {name: state.get(name) for name in _KINDS}
        return cls(**{**values, "config": DistillConfig.from_json(state["config"])})

    def check(self, config: DistillConfig, data: SourceData, path: Path) -> None:
        """Raises ConfigError unless this is a state of the run that ``config`` and ``data`` describe, StoreError if it cannot
        be a state of any run.
        """
        differences = config.differences(self.config)
        if differences:
            raise ConfigError(
                f"{path}: the checkpoint was made with other options ({'; '.join(differences)}); give the same, or run "
                "without --resume and with --force to start over"
            )
        if data.fingerprint != self.fingerprint:
            raise ConfigError(
                f"{path}: the checkpoint was made from other images; give the same data and --validation, or start over"
            )
        if self.iteration > config.iterations:
            raise StoreError(
                f"{path}: found iteration {self.iteration}, but the run has {config.iterations}: it is damaged; {_ADVICE}"
            )
        expected = (len(data.class_names) * config.ipc, *data.image_shape)
        if tuple(self.images.shape) != expected:
            raise StoreError(
                f"{path}: found images of shape {tuple(self.images.shape)}, expected {expected}: it is damaged; {_ADVICE}"
            )


def _loaded(path: Path) -> dict[str, Any]:
    """The content of the file. Raises StoreError if it is not a checkpoint."""
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd but readable tensors, which are checked afterwards
            refuse_bomb(path, file)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise StoreError(f"{path}: there is no checkpoint; run without --resume to start") from None
    except AtomError:
        raise
    except Exception as error:  # torch.load raises whatever its zip and pickle readers meet
        raise StoreError(f"{path}: not a readable checkpoint ({type(error).__name__}); {_ADVICE}") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise StoreError(f"{path}: a torch file, but not a checkpoint of this package; {_ADVICE}")
    return state


def _check_images(name: str, tensor: torch.Tensor, images: torch.Tensor) -> None:
    """Raise StoreError unless ``tensor`` is float32 (N, C, H, W) like ``images``, complete in the file, and finite."""
    if tensor.dtype != torch.float32 or tensor.ndim != 4 or tensor.shape != images.shape:
        raise StoreError(f"found {name} of {tensor.dtype} {tuple(tensor.shape)}, expected float32 (N, C, H, W)")
    whole = tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not whole or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise StoreError(f"found {name} that declare more values than the file has")
    if not bool(tensor.isfinite().all()):
        raise StoreError(f"found {name} with values that are not finite")

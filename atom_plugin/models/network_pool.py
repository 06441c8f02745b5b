"""A pool of trained networks that runs share: the weights of several ConvNets at several ages, in one HDF5 file.

Matching draws from it: a point on the way from a network's start to its end, theta = (1 - lambda) theta_0 + lambda theta_T with
lambda uniform in [0, 1] (Zhang et al., "DANCE", 2024), a network at a random age of its training, or one at a given distance
from its end, in a random direction (Xiong et al., "FedDM", 2023).
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import nn

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.runtime import bounded_json
from atom_plugin.runtime.files import refuse_existing, write_bytes

_FORMAT, _VERSION = "atom-plugin/network-pool", 1


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkPool:
    """``weights`` are float32 (networks, ages, P): all parameters of each network at each of the ``epochs``, 0 first.

    P is the number of parameters of ``network`` for ``image_shape`` (C, H, W) and ``classes``, in its own order. ``accuracies``
    (in [0, 1]) are the trained networks' accuracies on held-out images, ``made`` is how they were trained, ``fingerprint`` the
    source's, ``preprocessing`` the description of their input.
    """

    network: ConvNetConfig
    image_shape: tuple[int, int, int]
    classes: int
    epochs: tuple[int, ...]
    weights: torch.Tensor
    accuracies: tuple[float, ...]
    fingerprint: str
    preprocessing: str
    made: Mapping[str, Any]

    def __post_init__(self) -> None:
        count = sum(each.numel() for each in self.network.build(self.image_shape, self.classes).parameters())
        expected = (len(self.accuracies), len(self.epochs), count)
        if tuple(self.weights.shape) != expected or self.weights.dtype != torch.float32:
            raise ConfigError(
                f"found weights of a pool {self.weights.dtype} {tuple(self.weights.shape)}, expected float32 {expected}"
            )
        if not self.epochs or self.epochs[0] != 0 or sorted(set(self.epochs)) != list(self.epochs):
            raise ConfigError(f"found epochs {self.epochs} of a pool, expected ascending ones from 0 on")

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def sha256(self) -> str:
        """The sha256 of the weights, for runs that depend on them."""
        return hashlib.sha256(self.weights.numpy().tobytes()).hexdigest()

    def draw(self, state: str, generator: torch.Generator, *, radius: float = 0.0) -> tuple[int, torch.Tensor]:
        """A network's index and its weights (P,) in ``state``, "interpolated", "random-epoch" or "around", drawn on the CPU.

        ``radius`` is the Euclidean distance of weights "around" the end of the training from that end.
        """
        index = int(torch.randint(len(self), (), generator=generator))
        own = self.weights[index]
        if state == "interpolated":
            return index, torch.lerp(own[0], own[-1], float(torch.rand((), generator=generator)))
        if state == "around":
            step = torch.randn(own.shape[-1], generator=generator)
            return index, own[-1] + step * (radius / step.norm())
        return index, own[int(torch.randint(len(self.epochs), (), generator=generator))]

    def end(self, index: int) -> torch.Tensor:
        """The weights (P,) of network ``index`` at the end of its training."""
        return self.weights[index, -1]

    def check(
        self,
        network: ConvNetConfig,
        image_shape: tuple[int, int, int],
        classes: int,
        *,
        fingerprint: str,
        preprocessing: str,
    ) -> None:
        """Raise ConfigError unless a run with these can use the pool."""
        if not len(self):
            raise ConfigError("found a pool of no networks, expected at least one; make one with  atom-cli pool make")
        pairs: tuple[tuple[str, object, object], ...] = (
            ("networks", dataclasses.asdict(self.network), dataclasses.asdict(network)),
            ("images", self.image_shape, tuple(image_shape)),
            ("number of classes", self.classes, classes),
            ("source", self.fingerprint, fingerprint),
            ("preprocessing", self.preprocessing, preprocessing),
        )
        for what, found, expected in pairs:
            if found != expected:
                raise ConfigError(
                    f"the pool does not fit this run: found {what} {_short(found, expected)}, expected "
                    f"{_short(expected, found)}; make a pool of the same training images, with the same network and "
                    "preprocessing options"
                )

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write to ``path``, atomically; equal pools give equal bytes. Raises StoreError if that fails."""
        target = Path(path)
        refuse_existing(target, force=force)
        about = {
            "network": dataclasses.asdict(self.network),
            "image_shape": list(self.image_shape),
            "classes": self.classes,
            "epochs": list(self.epochs),
            "accuracies": list(self.accuracies),
            "fingerprint": self.fingerprint,
            "preprocessing": self.preprocessing,
            "made": dict(self.made),
        }
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            file.attrs["format"], file.attrs["format_version"] = _FORMAT, _VERSION
            file.attrs["about"] = json.dumps(about)
            file.create_dataset("weights", data=self.weights.numpy(), track_times=False)
            file.attrs["sha256"] = self.sha256
        write_bytes(target, buffer.getbuffer(), force=force)

    @classmethod
    def load(cls, path: str | Path) -> NetworkPool:
        """Read a file of :meth:`save`. Raises StoreError for a file that is missing, damaged, or not a pool."""
        try:
            with h5py.File(path, "r") as file:
                if file.attrs.get("format") != _FORMAT:
                    raise StoreError(f"{path}: is not a pool of networks; make one with  atom-cli pool make")
                if (version := int(file.attrs["format_version"])) > _VERSION:
                    raise StoreError(f"{path}: has version {version} of pools, this release reads {_VERSION}; update")
                about, checksum = bounded_json.parse(file.attrs["about"]), file.attrs["sha256"]
                if file["weights"].nbytes > Path(path).stat().st_size:
                    raise ValueError("its weights declare more values than the file has")
                weights = torch.from_numpy(np.asarray(file["weights"]))
            pool = cls(
                network=ConvNetConfig.from_json(about["network"]),
                image_shape=tuple(about["image_shape"]),
                classes=about["classes"],
                epochs=tuple(about["epochs"]),
                weights=weights,
                accuracies=tuple(about["accuracies"]),
                fingerprint=about["fingerprint"],
                preprocessing=about["preprocessing"],
                made=about["made"],
            )
            if pool.sha256 != checksum:
                raise ValueError("its checksum differs")
        except StoreError:
            raise
        except FileNotFoundError:
            raise StoreError(f"{path}: there is no such pool; make it with  atom-cli pool make") from None
        # h5py has no one exception for a damaged file, and what stands in it may have any type.
        except Exception as error:
            raise StoreError(
                f"{path}: cannot be read as a pool of networks ({' '.join(str(error).split())}); make it again"
            ) from error
        return pool


def flat_weights(network: nn.Module) -> torch.Tensor:
    """All parameters of ``network``, float32 (P,) on the CPU, in its own order."""
    return torch.cat([each.detach().float().cpu().reshape(-1) for each in network.parameters()])


@torch.no_grad()
def set_weights(network: nn.Module, flat: torch.Tensor) -> None:
    """Copy ``flat`` (P,), from :func:`flat_weights`, into the parameters."""
    start = 0
    for each in network.parameters():
        each.copy_(flat[start : start + each.numel()].view(each.shape))
        start += each.numel()


def _short(value: object, other: object) -> str:
    """``value``; of mappings only the entries that differ from ``other``."""
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items() if item != other.get(name))
    return str(value)[:120]

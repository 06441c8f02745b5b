"""The config of the networks that a run matches under; :mod:`.matching_network` describes the fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atom_plugin.distillation.set_config import Config, SetConfig, trained_epochs
from atom_plugin.errors import ConfigError
from atom_plugin.runtime.settings import about, current_names

TRAJECTORY = "trajectory"
QUEUE = "queue"
POOL_STATES = ("interpolated", "random-epoch", "around", TRAJECTORY)
_COURSE = "Networks"


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(SetConfig):
    """The config fields for the matching networks and their training."""

    matching_model: str = field(
        default="convnet",
        metadata=about(
            "Network that computes the features for matching: convnet (with --depth, --width and so on), resnet10, "
            "resnet18, vgg11, alexnet, vit, or a timm model, timm:NAME.",
            group=_COURSE,
            metavar="NAME",
        ),
    )
    matching_layers: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Layers of the matching model whose outputs are matched, names joined by commas.",
            group=_COURSE,
            metavar="LAYER,…",
            default="the last feature map of each resolution except the last",
        ),
    )
    network_state: str = field(
        default="random",
        metadata=about(
            "Weights of the matching networks: random, or trained:EPOCHS on the real images first; with --pool: "
            "interpolated between start and end of the training, random-epoch, around the end of the training, or the "
            "whole trajectory (matcher mtt); or queue, networks that are trained on the real images during the run.",
            group=_COURSE,
            metavar="STATE",
            default="random; interpolated with a pool",
        ),
    )
    network_radius: float | None = field(
        default=None,
        metadata=about(
            "With --network-state around: L2 distance of each drawn network's weights from the trained weights.",
            group=_COURSE,
            metavar="R",
            above=0,
            beside="network_state around",
            fallback=5.0,  # FedDM's
        ),
    )
    pool: str | None = field(
        default=None,
        metadata=about(
            "File of trained networks for matching, made by `atom-cli pool make`.", group=_COURSE, metavar="FILE"
        ),
    )
    pool_sha256: str | None = field(
        default=None, metadata=about("The sha256 of the pool's weights; the run fills it in.")
    )
    calibration: float | None = field(
        default=None,
        metadata=about(
            "Weight of an extra loss term: the cross entropy of the synthetic images under the trained networks of a "
            "pool or a queue.",
            group=_COURSE,
            metavar="WEIGHT",
            at_least=0,  # none is stored as 0, and read again
            beside="a pool or network_state queue",
            fallback=0.0,
        ),
    )
    network_pool: int | None = field(
        default=None,
        metadata=about(
            "With --network-state trained:EPOCHS: number of networks to train; matching draws from them.",
            group=_COURSE,
            metavar="N",
            at_least=1,
            beside="network_state trained:EPOCHS",
            fallback=5,
        ),
    )
    inner_loop: int = field(
        default=1,
        metadata=about(
            "Matching steps with one network before a new one is drawn.", group=_COURSE, metavar="N", at_least=1
        ),
    )
    network_epochs: int = field(
        default=0,
        metadata=about(
            "Epochs of training the matching network on the synthetic images after each step of the inner loop "
            "except the last.",
            group=_COURSE,
            metavar="N",
            at_least=0,
        ),
    )
    network_lr: float | None = field(
        default=None,
        metadata=about(
            "Learning rate for training the matching network on the synthetic images.",
            group=_COURSE,
            metavar="RATE",
            above=0,
            beside="network_epochs of 1 or more",
            fallback=0.01,
        ),
    )
    network_momentum: float | None = field(
        default=None,
        metadata=about(
            "Momentum for training the matching network on the synthetic images; DC uses 0.5, DSA 0.",
            group=_COURSE,
            metavar="M",
            at_least=0,
            below=1,
            beside="network_epochs of 1 or more",
            fallback=0.5,
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network_epochs and self.inner_loop == 1:
            raise ConfigError(
                "network_epochs has no effect with an inner_loop of 1, because the trained network is not used "
                "again; give an inner_loop of 2 or more"
            )
        if self.network_state == TRAJECTORY and self.pool is None:
            raise ConfigError(
                "found no pool for network_state trajectory (matcher mtt); give a pool of networks kept at every epoch, from "
                " atom-cli pool make --every 1"
            )
        if (self.network_state in POOL_STATES) != (self.pool is not None):
            found = f"network_state {self.network_state!r} " + ("with a pool" if self.pool else "without a pool")
            raise ConfigError(
                f"found {found}; give a pool for {' or '.join(POOL_STATES)}, and no pool for other states"
            )
        if self.pool is not None and self.matching_model != "convnet":
            raise ConfigError(
                f"a pool contains ConvNets, not the matching model {self.matching_model!r}; leave one of them out"
            )

    def _counting(self) -> dict[str, bool]:
        return {
            **super()._counting(),
            "network_radius": self.network_state == "around",
            "network_pool": self.pretraining_epochs > 0,
            "calibration": self.pool is not None or self.network_state == QUEUE,
            "network_lr": self.network_epochs > 0,
            "network_momentum": self.network_epochs > 0,
        }

    @property
    def pretraining_epochs(self) -> int:
        """Training epochs on the real images before matching; 0 for random networks, a pool and a queue."""
        if self.network_state in (*POOL_STATES, QUEUE):
            return 0
        return trained_epochs(self.network_state, "network_state")

    @property
    def pooled_networks(self) -> int:
        """``network_pool``, with its default."""
        networks: int = self._value("network_pool")
        return networks

    @property
    def drawn_radius(self) -> float:
        """``network_radius``, with its default."""
        radius: float = self._value("network_radius")
        return radius

    @property
    def calibration_weight(self) -> float:
        """``calibration``, with its default."""
        weight: float = self._value("calibration")
        return weight

    @property
    def inner_lr(self) -> float:
        """``network_lr``, with its default."""
        rate: float = self._value("network_lr")
        return rate

    @property
    def inner_momentum(self) -> float:
        """``network_momentum``, with its default."""
        momentum: float = self._value("network_momentum")
        return momentum

    def to_json(self) -> dict[str, Any]:
        """As :meth:`SetConfig.to_json`."""
        values = super().to_json()
        values["matching_layers"] = list(self.matching_layers)
        if self.pool is None:
            del values["pool"], values["pool_sha256"]
        else:
            values["pool"] = Path(self.pool).name  # where it lies on this machine says nothing elsewhere
        return values

    @classmethod
    def from_json(cls: type[Config], stored: Mapping[str, Any]) -> Config:
        """As :meth:`SetConfig.from_json`."""
        stored = current_names(cls, stored)
        layers = stored.get("matching_layers", ())
        return super().from_json({**stored, "matching_layers": tuple(layers) if isinstance(layers, list) else layers})

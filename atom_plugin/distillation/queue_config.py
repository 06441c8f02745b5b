"""The config of a queue of networks (:mod:`.network_queue`), and of calibration by accuracy."""

from __future__ import annotations

from dataclasses import dataclass, field

from atom_plugin.distillation.network_config import QUEUE, NetworkConfig
from atom_plugin.errors import ConfigError
from atom_plugin.runtime.settings import about

_GROUP = "Networks"


@dataclass(frozen=True, kw_only=True)
class QueueConfig(NetworkConfig):
    """The config fields for a queue of networks, and for calibration by a network's accuracy."""

    calibration_by_accuracy: bool | None = field(
        default=None,
        metadata=about(
            "Multiply the calibration by the accuracy of the network that it uses, between 0 and 1.",
            group=_GROUP,
            default="not multiplied",
            beside="a pool or network_state queue",
            fallback=False,
        ),
    )
    queue_every: int | None = field(
        default=None,
        metadata=about(
            "With --network-state queue: iterations after which another network joins the queue.",
            group=_GROUP,
            metavar="N",
            at_least=1,
            beside="network_state queue",
            fallback=30,
        ),
    )
    queue_length: int | None = field(
        default=None,
        metadata=about(
            "With --network-state queue: the most networks in the queue; the oldest leaves when another joins.",
            group=_GROUP,
            metavar="N",
            at_least=1,
            beside="network_state queue",
            fallback=100,
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network_state != QUEUE:
            return
        for name, usual in (("inner_loop", 1), ("matching_model", "convnet")):
            if (given := getattr(self, name)) != usual:
                raise ConfigError(
                    f"network_state queue trains ConvNets after each matching step, found {name} {given}; leave {name} out"
                )

    def _counting(self) -> dict[str, bool]:
        known = super()._counting()
        queued = self.network_state == QUEUE
        return {
            **known,
            "calibration_by_accuracy": known["calibration"],
            "queue_every": queued,
            "queue_length": queued,
        }

    @property
    def calibrates_by_accuracy(self) -> bool:
        """``calibration_by_accuracy``, with its default."""
        by_accuracy: bool = self._value("calibration_by_accuracy")
        return by_accuracy

    @property
    def queued_every(self) -> int:
        """``queue_every``, with its default."""
        iterations: int = self._value("queue_every")
        return iterations

    @property
    def queued_networks(self) -> int:
        """``queue_length``, with its default."""
        networks: int = self._value("queue_length")
        return networks

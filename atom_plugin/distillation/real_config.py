"""The config of the real batches that a run matches, and how long it matches each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from atom_plugin.distillation.network_config import QUEUE
from atom_plugin.distillation.queue_config import QueueConfig
from atom_plugin.errors import ConfigError
from atom_plugin.runtime.settings import about

_GROUP = "Optimisation"


@dataclass(frozen=True, kw_only=True)
class RealConfig(QueueConfig):
    """The config fields for the real side of a matching step."""

    real_batch: int = field(
        default=64,
        metadata=about("Real images per class in each matching step.", group=_GROUP, metavar="N", at_least=1),
    )
    share_real: bool | None = field(
        default=None,
        metadata=about(
            "Take one real batch and one augmentation for all steps of an inner loop, and compute the statistics of the "
            "real images once.",
            group=_GROUP,
            default="a batch and an augmentation for each step",
            beside="an inner_loop of 2 or more without network_epochs",
            fallback=False,
        ),
    )

    cluster_every: int | None = field(
        default=None,
        metadata=about(
            "Take as the real batch of each class the images nearest to the k-means centres of its embeddings, chosen again "
            "after N draws of a network.",
            group=_GROUP,
            metavar="N",
            at_least=1,
            default="random batches",
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cluster_every is not None and self.network_state == QUEUE:
            raise ConfigError(
                f"cluster_every ({self.cluster_every}) needs networks that can be drawn again, those of network_state queue "
                "cannot be; leave one of the two out"
            )

    def _counting(self) -> dict[str, bool]:
        return {**super()._counting(), "share_real": self.inner_loop > 1 and not self.network_epochs}

    def to_json(self) -> dict[str, Any]:
        """As :meth:`SetConfig.to_json`."""
        values = super().to_json()
        if self.cluster_every is None:
            del values["cluster_every"]
        return values

    @property
    def shares_real(self) -> bool:
        """``share_real``, with its default."""
        shares: bool = self._value("share_real")
        return shares

    def drawn_in(self, iteration: int) -> int:
        """The iteration whose network, real batch and augmentation ``iteration`` uses: with shared batches the first of its
        inner loop, otherwise itself (but for the network, which always serves the whole inner loop).
        """
        return iteration - iteration % self.inner_loop if self.shares_real else iteration

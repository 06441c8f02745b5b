"""The config of an audit, and its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from atom_plugin.audit.attacks import Array
from atom_plugin.audit.copies import Copies
from atom_plugin.audit.members import Examined
from atom_plugin.audit.rates import RESAMPLES, AttackRates, attack_rates
from atom_plugin.datasets import Split
from atom_plugin.errors import ConfigError
from atom_plugin.evaluation import network_of
from atom_plugin.evaluation.training_recipes import TrainConfig
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.store.synthetic_set import SyntheticSet

ALL, OWN, START = "all", "own", "start"
"""Groups of members: all images that a set was made from; for a selection the images in it; the images that it started from."""

ATTACKS = ("loss", "lira", "distance", "whitening")
"""Attacks: by the loss of networks trained on the set, their confidence compared with shadow networks', the set's images, and
its whitening, if it has one.
"""


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """``networks`` of the set's own ConvNet are trained on each set, and as many shadow networks, with ``training``.

    ``normalisation`` replaces the ConvNet's, if given. ``images`` limits the tested members, and the non-members; ``seed``
    draws them, and everything else. ``baseline`` adds equally many random real images for each set. Raises ConfigError for
    fewer than two networks, or no images.
    """

    training: TrainConfig = field(default_factory=TrainConfig)
    networks: int = 8
    images: int = 5000
    baseline: bool = True
    normalisation: str | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    resamples: int = RESAMPLES

    def __post_init__(self) -> None:
        for name, least in (("networks", 2), ("images", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} of an audit must be at least {least}, not {getattr(self, name)}")

    def network(self, synthetic_set: SyntheticSet) -> ConvNetConfig:
        """The network that is trained on the set."""
        own = network_of(synthetic_set)
        return own if self.normalisation is None else replace(own, normalisation=self.normalisation)


@dataclass(frozen=True, kw_only=True, eq=False)
class AuditedSet:
    """The result for one set.

    ``rates``: by group of members and attack, without groups of fewer than four images. ``scores``: by attack, of the examined
    images (n,). ``own``: which of these are in the set or its start, bool (n,); None if unknown. ``shadows``: the number of
    shadow networks.
    """

    name: str
    synthetic_set: SyntheticSet
    rates: dict[tuple[str, str], AttackRates]
    scores: dict[str, Array]
    own: Array | None
    networks: int
    shadows: int
    pixels: Copies
    embedding: Copies


@dataclass(frozen=True, kw_only=True, eq=False)
class Audit:
    """All sets, and the images that were examined for all: members, the drawn ones first, then non-members.

    ``rows`` int64 (n,) are their indices in their splits; ``drawn`` bool (n,) excludes members that are examined only because
    some set contains them or started from them. ``control``: by attack, its success on shadow networks and sets, which saw no
    member; empty if these were given.
    """

    config: AuditConfig
    examined: Examined
    images: Split
    rows: torch.Tensor
    is_member: Array
    drawn: Array
    sets: Sequence[AuditedSet] = ()
    control: Mapping[str, AttackRates] = field(default_factory=dict)

    def rates(self, scores: Array, members: Array, non_members: Array) -> AttackRates:
        """The rates of ``scores`` (n,), on the images that the two masks choose. Raises ConfigError if these are too few."""
        return attack_rates(
            scores[members], scores[non_members], resamples=self.config.resamples, seed=self.config.seed
        )

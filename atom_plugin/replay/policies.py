"""The names of memory policies, and the supplier of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from atom_plugin.distillation.set_config import METHODS
from atom_plugin.errors import ConfigError, unknown
from atom_plugin.matchers import MATCHERS
from atom_plugin.replay.logits import MemoryLabels
from atom_plugin.replay.plan import BASELINES
from atom_plugin.replay.suppliers import (
    DistillingSupplier,
    MixedSupplier,
    PrecomputedSupplier,
    SelectingSupplier,
    Supplier,
)
from atom_plugin.store.synthetic_set import SyntheticSet

STORED = "stored"
"""The policy whose memory is filled from the given sets."""
PACKED = "-packed"
"""Suffix of a selection method whose images are packed in the same way as the distilled images."""
_AND = "+"


def parts_of(policy: str) -> list[str]:
    """The equal parts of the memory of ``policy``: "atom+random" is half distilled, half real."""
    return policy.split(_AND)


def is_selection(part: str) -> bool:
    """Whether ``part`` of a policy is selected from the real images."""
    return part.removesuffix(PACKED) in METHODS


def check_policy(name: str, *, stored: bool) -> None:
    """Raises ConfigError unless ``name`` is a baseline, or consists of matchers, selection methods, or "stored" if sets are
    given; PluginError for a matcher that cannot be loaded.
    """
    if name in BASELINES:
        return
    parts = parts_of(name)
    if len(set(parts)) < len(parts):
        raise ConfigError(f"the policy {name!r} names a part twice; its parts are equal shares, so name each once")
    for part in parts:
        if part == STORED and not stored:
            raise ConfigError("the policy 'stored' replays existing sets, and none are given; name them with --memory")
        if part == STORED or is_selection(part):
            continue
        selections = [method + end for end in ("", PACKED) for method in METHODS]
        known = [*MATCHERS.names(), *selections, *([STORED] if stored else []), *BASELINES]
        if part not in known or part in BASELINES:
            mixed = f" (of the policy {name!r})" if len(parts) > 1 else ""
            raise ConfigError(unknown("policy", part, known) + mixed)
        MATCHERS.get(part)


@dataclass(frozen=True, kw_only=True)
class MemoryOptions:
    """The making and use of memories in ``mode``. ``distillation``: overrides of the recipe's choices, for every matcher."""

    mode: str
    ipc: int
    recipe: str = "best"
    distillation: Mapping[str, Any] = field(default_factory=dict)
    memory_augmentation: str = "none"
    stream_augmentation: str = "none"
    asymmetric_loss: bool = False
    finetune_steps: int = 0
    labels: MemoryLabels = field(default_factory=MemoryLabels)
    separate_normalisation: bool = False
    seed: int = 0
    device: str = "auto"


def supplier_of(
    policy: str,
    options: MemoryOptions,
    order: int,
    sets: Sequence[SyntheticSet],
    on_progress: Callable[[Any], None] | None,
) -> Supplier:
    """The supplier of the memory of ``policy`` in class order ``order``."""
    suppliers = [_part(part, options, order, sets, on_progress) for part in parts_of(policy)]
    return suppliers[0] if len(suppliers) == 1 else MixedSupplier(suppliers)


def _part(
    part: str,
    options: MemoryOptions,
    order: int,
    sets: Sequence[SyntheticSet],
    on_progress: Callable[[Any], None] | None,
) -> Supplier:
    if part == STORED:
        return PrecomputedSupplier(sets)
    given = options.distillation
    if is_selection(part):
        own = {key: given[key] for key in ("network", "precision", "factor") if key in given}
        return SelectingSupplier(
            method=part.removesuffix(PACKED),
            seed=options.seed + order,
            recipe=options.recipe,
            overrides=own if part.endswith(PACKED) else {**own, "factor": 1},
            device=options.device,
        )
    return DistillingSupplier(
        recipe=options.recipe,
        overrides={**given, "matcher": part, "seed": options.seed},
        device=options.device,
        on_progress=on_progress,
    )

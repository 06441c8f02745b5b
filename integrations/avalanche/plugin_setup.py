"""What stands behind the names of an experiment: memories of synthetic or real images, and the baselines beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch

from atom_plugin import store
from atom_plugin.datasets import SourceData
from atom_plugin.distillation.set_config import METHODS
from atom_plugin.errors import ConfigError, StoreError, unknown
from atom_plugin.integrations.avalanche.baselines import AugmentedReplay, EqualGDumb
from atom_plugin.integrations.avalanche.class_orders import Stream
from atom_plugin.integrations.avalanche.exemplars import RawExemplars, RawReplay
from atom_plugin.integrations.avalanche.plugins import SyntheticReplay, TrainFromMemory
from atom_plugin.integrations.avalanche.storage_policy import SyntheticMemory
from atom_plugin.matchers import MATCHERS
from atom_plugin.replay.memory import Budget
from atom_plugin.replay.plan import BASELINES
from atom_plugin.replay.suppliers import DistillingSupplier, PrecomputedSupplier, SelectingSupplier, Supplier
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing

STORED = "stored"
"""The policy whose memory comes from the sets that were given."""


def check_policy(name: str, *, stored: bool) -> None:
    """Raises ConfigError unless ``name`` is a matcher, a selection method, a baseline, or "stored" where sets are given.

    PluginError for a matcher that cannot be loaded.
    """
    if name in BASELINES or name in METHODS or (name == STORED and stored):
        return
    if name == STORED:
        raise ConfigError("the policy 'stored' replays sets made before; name them with --memory")
    known = [*MATCHERS.names(), *METHODS, *([STORED] if stored else []), *BASELINES]
    if name not in known:
        raise ConfigError(unknown("policy", name, known))
    MATCHERS.get(name)


@dataclass(kw_only=True)
class PluginSetup:
    """A policy made ready for one run: its plugins, and its memory, of this package's kind or of Avalanche's, or none."""

    plugins: Sequence[Any] = ()
    memory: SyntheticMemory | None = None
    raw: RawExemplars | None = None

    def size(self, image_shape: tuple[int, int, int]) -> tuple[int, int]:
        """Images held, and bytes of their pixels as kept: float32 for synthetic memory, 8 bits for raw images."""
        if self.memory is not None:
            return len(self.memory.memory), self.memory.memory.bytes
        held = 0 if self.raw is None else len(self.raw.buffer)
        channels, height, width = image_shape
        return held, held * channels * height * width


@dataclass(frozen=True, kw_only=True)
class MemoryOptions:
    """How memories are made and used in ``mode``. ``distillation``: overrides of the recipe's choices, for every matcher."""

    mode: str
    ipc: int
    recipe: str = "atom"
    distillation: Mapping[str, Any] = field(default_factory=dict)
    memory_augmentation: str = "none"
    stream_augmentation: str = "none"
    seed: int = 0
    device: str = "auto"

    def raw_ipc(self, name: str) -> int:
        """Raw images per class of the baseline ``name``: as kept, a synthetic image has 32 bits where a raw one has 8."""
        return 4 * self.ipc if name == "real-bytes" else self.ipc


def plugins_for(
    name: str,
    stream: Stream,
    options: MemoryOptions,
    *,
    fresh: Callable[[int], torch.nn.Module],
    sets: Sequence[SyntheticSet] = (),
    on_progress: Callable[[Any], None] | None = None,
) -> PluginSetup:
    """The plugins and memory of the policy ``name``; ``fresh`` makes the networks trained from memory alone."""
    if name in BASELINES:
        return _baseline(name, options, fresh)
    memory = SyntheticMemory(
        Budget(ipc=options.ipc),
        _supplier(name, stream, options, sets, on_progress),
        source=stream.data,
        stream_preprocessing=stream.preprocessing,
    )
    plugin: Any
    if options.mode == "replay":
        plugin = SyntheticReplay(
            memory,
            memory_augmentation=options.memory_augmentation,
            stream_augmentation=options.stream_augmentation,
            seed=options.seed,
        )
    else:
        plugin = TrainFromMemory(memory, augmentation=options.memory_augmentation, fresh=fresh, seed=options.seed)
    return PluginSetup(plugins=[plugin], memory=memory)


def _baseline(name: str, options: MemoryOptions, fresh: Callable[[int], torch.nn.Module]) -> PluginSetup:
    raw = None if name in ("naive", "joint") else RawExemplars(options.raw_ipc(name))
    if name == "gdumb":
        assert raw is not None
        gdumb = EqualGDumb(raw, fresh=fresh, augmentation=options.memory_augmentation, seed=options.seed)
        return PluginSetup(plugins=[gdumb], raw=raw)
    plugins: list[Any] = [] if raw is None else [RawReplay(raw)]
    if {options.stream_augmentation, options.memory_augmentation} != {"none"}:
        augmented = AugmentedReplay(
            stream_augmentation=options.stream_augmentation,
            memory_augmentation=options.memory_augmentation,
            seed=options.seed,
        )
        plugins.append(augmented)
    return PluginSetup(plugins=plugins, raw=raw)


def _supplier(
    name: str,
    stream: Stream,
    options: MemoryOptions,
    sets: Sequence[SyntheticSet],
    on_progress: Callable[[Any], None] | None,
) -> Supplier:
    if name == STORED:
        return PrecomputedSupplier(sets)
    if name in METHODS:
        inner: Supplier = SelectingSupplier(
            method=name,
            seed=options.seed + stream.order,
            recipe=options.recipe,
            overrides={
                key: options.distillation[key] for key in ("network", "precision") if key in options.distillation
            },
            device=options.device,
        )
    else:
        inner = DistillingSupplier(
            recipe=options.recipe,
            overrides={**options.distillation, "matcher": name, "seed": options.seed},
            device=options.device,
            on_progress=on_progress,
        )
    paths = {
        frozenset(classes): stream.folder / f"{file_stem(name)}-order{stream.order}-step{step}.h5"
        for step, classes in enumerate(stream.steps, start=1)
    }
    return CachedSupplier(inner, paths)


def file_stem(policy: str) -> str:
    """A policy's name in the names of its files: a third party's may hold any character."""
    return quote(policy, safe="")


class CachedSupplier:
    """Another supplier, whose sets are kept as files: networks, modes and resumed runs of one order share them."""

    preprocessing = None
    needs_images = True

    def __init__(self, inner: Supplier, paths: Mapping[frozenset[int], Path]) -> None:
        self._inner = inner
        self._paths = paths

    def supply(
        self, data: SourceData | None, classes: Sequence[int], *, ipc: int, preprocessing: Preprocessing | None
    ) -> SyntheticSet:
        """From the file of these classes, else made and written there. Raises StoreError for another run's file."""
        path = self._paths[frozenset(classes)]
        if not path.exists():
            made = self._inner.supply(data, classes, ipc=ipc, preprocessing=preprocessing)
            store.write(made, path, force=True)
            return made
        kept = store.read(path)
        if preprocessing is not None and not kept.preprocessing.matches(preprocessing):
            raise StoreError(
                f"{path}: has another preprocessing than this stream; delete it, or start over with --force"
            )
        return kept

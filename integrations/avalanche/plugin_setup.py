"""The policies of an experiment by name: memories of synthetic or real images, and baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch

from atom_plugin import store
from atom_plugin.datasets import SourceData
from atom_plugin.errors import StoreError
from atom_plugin.integrations.avalanche.baselines import AugmentedReplay, EqualGDumb
from atom_plugin.integrations.avalanche.class_orders import Stream
from atom_plugin.integrations.avalanche.exemplars import RawExemplars, RawReplay
from atom_plugin.integrations.avalanche.from_memory import TrainFromMemory
from atom_plugin.integrations.avalanche.plugins import SyntheticReplay
from atom_plugin.integrations.avalanche.storage_policy import SyntheticMemory
from atom_plugin.replay.logits import logit_bytes
from atom_plugin.replay.memory import Budget, ReplayMemory
from atom_plugin.replay.plan import BASELINES
from atom_plugin.replay.policies import STORED, MemoryOptions, supplier_of
from atom_plugin.replay.suppliers import PrecomputedSupplier, Supplier
from atom_plugin.store.synthetic_set import STORAGE_TYPES, SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing


@dataclass(kw_only=True)
class PluginSetup:
    """A policy prepared for one run: its plugins, and its memory (this package's, Avalanche's, or none)."""

    plugins: Sequence[Any] = ()
    memory: SyntheticMemory | None = None
    raw: RawExemplars | None = None

    def size(self, image_shape: tuple[int, int, int]) -> tuple[int, int]:
        """The number of stored images, and the bytes of their pixels: in the memory's storage, 8 bits for raw images."""
        if self.memory is not None:
            return len(self.memory.memory), self.memory.memory.bytes
        held = 0 if self.raw is None else len(self.raw.buffer)
        channels, height, width = image_shape
        return held, held * channels * height * width


def plugins_for(
    name: str,
    stream: Stream,
    options: MemoryOptions,
    *,
    fresh: Callable[[int], torch.nn.Module],
    sets: Sequence[SyntheticSet] = (),
    on_progress: Callable[[Any], None] | None = None,
) -> PluginSetup:
    """The plugins and memory of the policy ``name``; ``fresh`` makes the networks that train only on the memory."""
    if name in BASELINES:
        return _baseline(name, options, fresh, raw_images_per_class(name, options, sets, stream.data))
    memory = SyntheticMemory(
        ReplayMemory(Budget(ipc=options.ipc), keep_logits=options.labels.soft),
        _kept(name, stream, options, sets, on_progress),
        source=stream.data,
        stream_preprocessing=stream.preprocessing,
    )
    labels: dict[str, Any] = {"memory_labels": options.labels.kind, "logit_weight": options.labels.weight}
    plugin: Any
    if options.mode == "replay":
        plugin = SyntheticReplay(
            memory,
            memory_augmentation=options.memory_augmentation,
            stream_augmentation=options.stream_augmentation,
            asymmetric_loss=options.asymmetric_loss,
            finetune_steps=options.finetune_steps,
            separate_normalisation=options.separate_normalisation,
            seed=options.seed,
            **labels,
        )
    else:
        plugin = TrainFromMemory(
            memory, augmentation=options.memory_augmentation, fresh=fresh, seed=options.seed, **labels
        )
    return PluginSetup(plugins=[plugin], memory=memory)


def raw_images_per_class(name: str, options: MemoryOptions, sets: Sequence[SyntheticSet], data: SourceData) -> int:
    """The number of raw 8-bit images per class of the baseline ``name``: equal to the memory's images, or to its bytes."""
    if name != "real-bytes":
        return options.ipc
    pixels = math.prod(data.image_shape)
    storage = sets[0].storage if sets else options.distillation.get("storage", "uint8")
    stored = pixels * STORAGE_TYPES[storage].itemsize
    if options.labels.soft:
        supplier = PrecomputedSupplier(sets) if sets else supplier_of("atom", options, 0, (), None)
        stored += logit_bytes(supplier.tiles(data.image_shape), len(data.class_names))
    return options.ipc * stored // pixels


def _baseline(
    name: str, options: MemoryOptions, fresh: Callable[[int], torch.nn.Module], per_class: int
) -> PluginSetup:
    raw = None if name in ("naive", "joint") else RawExemplars(per_class)
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


def _kept(
    name: str,
    stream: Stream,
    options: MemoryOptions,
    sets: Sequence[SyntheticSet],
    on_progress: Callable[[Any], None] | None,
) -> Supplier:
    """The supplier of the memory of the policy ``name``; a supplier that makes sets keeps a file for each step."""
    inner = supplier_of(name, options, stream.order, sets, on_progress)
    if name == STORED:
        return inner
    paths = {
        frozenset(classes): stream.folder / f"{file_stem(name)}-order{stream.order}-step{step}.h5"
        for step, classes in enumerate(stream.steps, start=1)
    }
    return CachedSupplier(inner, paths)


def file_stem(policy: str) -> str:
    """A policy's name for use in file names, since a plugin's name may have any character."""
    return quote(policy, safe="")


class CachedSupplier:
    """A supplier that keeps the sets of another one as files: networks, modes and resumed runs of one order share them."""

    preprocessing = None
    needs_images = True

    def storage(self, image_shape: tuple[int, int, int]) -> str:
        """The other supplier's storage."""
        return self._inner.storage(image_shape)

    def tiles(self, image_shape: tuple[int, int, int]) -> int:
        """The other supplier's tiles."""
        return self._inner.tiles(image_shape)

    def __init__(self, inner: Supplier, paths: Mapping[frozenset[int], Path]) -> None:
        self._inner = inner
        self._paths = paths

    def supply(
        self, data: SourceData | None, classes: Sequence[int], *, ipc: int, preprocessing: Preprocessing | None
    ) -> SyntheticSet:
        """The set in the file of these classes, or a new set, written to it. Raises StoreError for another run's file."""
        path = self._paths[frozenset(classes)]
        if not path.exists():
            made = self._inner.supply(data, classes, ipc=ipc, preprocessing=preprocessing)
            store.write(made, path, force=True)
            return made
        kept = store.read(path)
        if preprocessing is not None and not kept.preprocessing.matches(preprocessing):
            raise StoreError(
                f"{path}: has a different preprocessing than this stream; delete it, or start over with --force"
            )
        return kept

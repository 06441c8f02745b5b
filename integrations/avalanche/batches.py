"""Any storage policy, as a plugin needs it, and batches of its buffer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.utils.data import DataLoader

from atom_plugin.errors import require_methods
from atom_plugin.replay.batches import MemoryBatches
from atom_plugin.replay.memory import ReplayMemory


def require_policy(policy: object) -> None:
    """Raise ConfigError unless ``policy`` is a storage policy."""
    require_methods("policy", policy, "buffer", "post_adapt", such_as="SyntheticMemory(Budget(ipc=10), supplier)")


def batches_of(policy: Any, batch_size: int) -> Iterable[Any]:
    """Shuffled batches of any storage policy's buffer; :class:`MemoryBatches` for this package's memories."""
    memory = getattr(policy, "memory", None)
    if isinstance(memory, ReplayMemory):
        return MemoryBatches(memory, batch_size)
    buffer = policy.buffer
    return DataLoader(buffer, batch_size=batch_size, shuffle=True, collate_fn=buffer.collate_fn)

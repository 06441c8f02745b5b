"""Dataset distillation by attention matching. The names below load on first use, so that importing stays cheap."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from atom_plugin._version import __version__

if TYPE_CHECKING:
    from atom_plugin.config import DistillConfig
    from atom_plugin.distillation import distill
    from atom_plugin.errors import AtomError
    from atom_plugin.matchers import MATCHERS
    from atom_plugin.sources import SOURCES, SourceRequest, load_source
    from atom_plugin.synthetic_set import SyntheticSet

_HOME = {
    "AtomError": "atom_plugin.errors",
    "DistillConfig": "atom_plugin.config",
    "MATCHERS": "atom_plugin.matchers",
    "SOURCES": "atom_plugin.sources",
    "SourceRequest": "atom_plugin.sources",
    "SyntheticSet": "atom_plugin.synthetic_set",
    "distill": "atom_plugin.distillation",
    "load_source": "atom_plugin.sources",
}

__all__ = [
    "MATCHERS",
    "SOURCES",
    "AtomError",
    "DistillConfig",
    "SourceRequest",
    "SyntheticSet",
    "__version__",
    "distill",
    "load_source",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'atom_plugin' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)

"""Dataset distillation by attention matching. The names below load on first use, so that the import is fast."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from atom_plugin.runtime.versions import __version__

if TYPE_CHECKING:
    from atom_plugin.datasets import SOURCES, SourceRequest, load_source
    from atom_plugin.distillation.config import DistillConfig
    from atom_plugin.distillation.loop import distill
    from atom_plugin.errors import AtomError
    from atom_plugin.evaluation import evaluate
    from atom_plugin.evaluation.training_recipes import TrainConfig
    from atom_plugin.matchers import MATCHERS, make_matcher
    from atom_plugin.matchers.host_matcher import HostMatcher
    from atom_plugin.models.features import FeatureExtractor
    from atom_plugin.store import SyntheticSet
    from atom_plugin.store.formats import export_set, import_set
    from atom_plugin.store.loading import load, preprocess_for
    from atom_plugin.transforms.preprocessing import Preprocessing

_HOME = {
    "AtomError": "atom_plugin.errors",
    "DistillConfig": "atom_plugin.distillation.config",
    "FeatureExtractor": "atom_plugin.models.features",
    "HostMatcher": "atom_plugin.matchers.host_matcher",
    "MATCHERS": "atom_plugin.matchers",
    "Preprocessing": "atom_plugin.transforms.preprocessing",
    "SOURCES": "atom_plugin.datasets",
    "SourceRequest": "atom_plugin.datasets",
    "SyntheticSet": "atom_plugin.store",
    "TrainConfig": "atom_plugin.evaluation.training_recipes",
    "distill": "atom_plugin.distillation.loop",
    "evaluate": "atom_plugin.evaluation",
    "export_set": "atom_plugin.store.formats",
    "import_set": "atom_plugin.store.formats",
    "load": "atom_plugin.store.loading",
    "load_source": "atom_plugin.datasets",
    "make_matcher": "atom_plugin.matchers",
    "preprocess_for": "atom_plugin.store.loading",
}

__all__ = [
    "MATCHERS",
    "SOURCES",
    "AtomError",
    "DistillConfig",
    "FeatureExtractor",
    "HostMatcher",
    "Preprocessing",
    "SourceRequest",
    "SyntheticSet",
    "TrainConfig",
    "__version__",
    "distill",
    "evaluate",
    "export_set",
    "import_set",
    "load",
    "load_source",
    "make_matcher",
    "preprocess_for",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'atom_plugin' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)

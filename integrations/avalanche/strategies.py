"""Refuse Avalanche strategies that cannot use a memory of synthetic images, before they fail."""

from __future__ import annotations

from typing import Any

from avalanche.training.plugins import MIRPlugin
from avalanche.training.plugins.update_fecam import MemoryFeCAMUpdate
from avalanche.training.plugins.update_ncm import MemoryNCMUpdate
from avalanche.training.supervised import DER, ER_ACE, ER_AML, SCR
from avalanche.training.supervised.feature_replay import FeatureReplay

from atom_plugin.errors import ConfigError

_TAKE_TASKS_APART = (ER_ACE, ER_AML, SCR, MIRPlugin, MemoryNCMUpdate, MemoryFeCAMUpdate)


def check_strategy(strategy: Any, task: int | None) -> None:
    """Raises ConfigError for a strategy, or its plugins, that cannot use synthetic images with samples of ``task``.

    ``task`` None: a stream of (x, y). Avalanche passes its strategy when it first fills a memory: ``ER_ACE`` and ``ER_AML``
    before the first experience, others after it.
    """
    for kind, what in ((DER, "logits"), (FeatureReplay, "features")):
        if isinstance(strategy, kind):
            raise ConfigError(keeps_more(kind.__name__, what))
    if task is None:
        for part in (strategy, *getattr(strategy, "plugins", ())):
            if isinstance(part, _TAKE_TASKS_APART):
                raise ConfigError(
                    f"{type(part).__name__} takes only samples (x, y, task), but the stream's are (x, y); make the stream with "
                    "task labels (nc_benchmark gives them)"
                )


def check_batches(strategy: Any, fewest: int) -> None:
    """Raises ConfigError for ``ER_AML`` with batches larger than the ``fewest`` images of a class: it would never end."""
    if isinstance(strategy, ER_AML) and strategy.train_mb_size > fewest:
        raise ConfigError(
            f"ER_AML draws whole batches of {strategy.train_mb_size} from each class, but the memory has {fewest} image(s) of "
            "a class; lower train_mb_size, or give the memory more room"
        )


def keeps_more(name: str, what: str) -> str:
    """The error message for a strategy that keeps ``what`` of its memory's samples."""
    return (
        f"{name} keeps {what} of the stream's samples, which synthetic images do not have; use SyntheticReplay, "
        "ReplayPlugin, or another strategy that accepts synthetic images (docs/continual-learning.md)"
    )

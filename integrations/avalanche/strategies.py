"""Which of Avalanche's strategies cannot use a memory of synthetic images: said in a line, before they fail on it."""

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
    """Raises ConfigError for a strategy, or plugins of it, that cannot use synthetic images beside samples of ``task``.

    None is a stream of (x, y). Avalanche hands its strategy over when it first fills a memory: ``ER_ACE`` and ``ER_AML``
    before the first experience, others after it.
    """
    for kind, what in ((DER, "logits"), (FeatureReplay, "features")):
        if isinstance(strategy, kind):
            raise ConfigError(keeps_more(kind.__name__, what))
    if task is None:
        for part in (strategy, *getattr(strategy, "plugins", ())):
            if isinstance(part, _TAKE_TASKS_APART):
                raise ConfigError(
                    f"{type(part).__name__} takes samples (x, y, task) only, but the stream's are (x, y); make the stream with "
                    "task labels (nc_benchmark gives them)"
                )


def check_batches(strategy: Any, fewest: int) -> None:
    """Raises ConfigError for ``ER_AML`` with batches larger than the ``fewest`` images of a class: it would wait forever."""
    if isinstance(strategy, ER_AML) and strategy.train_mb_size > fewest:
        raise ConfigError(
            f"ER_AML draws whole batches of {strategy.train_mb_size} from each class, but the memory has {fewest} image(s) of "
            "one; lower train_mb_size, or give the memory more room"
        )


def keeps_more(name: str, what: str) -> str:
    """Why a strategy is refused that keeps ``what`` beside the samples of its memory."""
    return (
        f"{name} keeps {what} of the stream's samples beside them, which synthetic images do not have; use SyntheticReplay, "
        "ReplayPlugin, or another strategy that takes them (docs/continual-learning.md)"
    )

"""Accuracy on validation images while a distillation runs."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from atom_plugin.runtime import distributed

if TYPE_CHECKING:
    from atom_plugin.datasets import SourceData
    from atom_plugin.distillation.config import DistillConfig
    from atom_plugin.distillation.loop import Progress

_EPOCHS = 100  # half of the recipe `search`: some seconds for a small set on a CPU
_logger = logging.getLogger("atom_plugin")


@dataclass(frozen=True, kw_only=True)
class AccuracyOverSteps:
    """Every ``every`` steps (None: never), train a fresh network on the current set; ``found`` maps iteration to its accuracy
    on the source's validation images. The network is the same each time, and uses no random draw of the run.
    """

    every: int | None
    data: SourceData
    config: DistillConfig
    device: str
    found: dict[int, float] = field(default_factory=dict)

    def __call__(self, progress: Progress) -> None:
        """Measure if a measurement is due. All processes of a run call this; the first one trains."""
        if not self.every or progress.iteration % self.every:
            return
        from atom_plugin.errors import AtomError
        from atom_plugin.evaluation import evaluate
        from atom_plugin.evaluation.training_recipes import TrainConfig

        seen = progress.snapshot()  # in all processes of a run
        if not distributed.leads() or self.data.validation is None:
            return
        training = TrainConfig.from_recipe("search", epochs=_EPOCHS)
        try:
            with distributed.alone():
                reached = evaluate(
                    seen,
                    self.data.validation,
                    training,
                    repeats=1,
                    seed=self.config.seed,
                    device=self.device,
                    precision=self.config.precision,
                    on="validation",
                )
        except AtomError as error:
            _logger.warning("step %d: no accuracy: %s", progress.iteration, error)
            return
        if reached.mean is not None:
            self.found[progress.iteration] = reached.mean

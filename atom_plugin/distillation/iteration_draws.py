"""What an iteration draws: the network that it matches under, its real batch if it is representative, and augmentations."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.engine.calibration import Calibration
from atom_plugin.distillation.matching_network import MatchingNetwork
from atom_plugin.distillation.representatives import Representatives
from atom_plugin.errors import ConfigError
from atom_plugin.models.convnet import ConvNet
from atom_plugin.models.network_pool import set_weights
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.transforms.augmentation import Augmentation, Draw


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The augmentation of each class, and the ``iteration`` that drew it, whose real batch belongs to it."""

    iteration: int
    augmentation: Draw


class IterationDraws:
    """Sets up the network of each iteration, and draws its augmentation, for ``classes`` classes.

    ``representatives``, if there are any, choose its real batch. Where a real batch is shared, the later iterations of an inner
    loop take what the first drew. A resumed run draws it again.
    """

    def __init__(
        self,
        config: DistillConfig,
        matching: MatchingNetwork,
        *,
        classes: int,
        representatives: Representatives | None = None,
    ) -> None:
        self._config = config
        self._classes = classes
        self._held: Drawn | None = None
        self._representatives = representatives
        self.matching = matching
        self.augmentation = Augmentation(strategy=config.augmentation)
        self.calibration = self._calibration_of(config)

    def _calibration_of(self, config: DistillConfig) -> Calibration | None:
        if not config.calibration_weight:
            if config.calibrates_by_accuracy:
                raise ConfigError(
                    "calibration_by_accuracy has no effect without a calibration; give one above 0, or leave it out"
                )
            return None
        assert isinstance(self.matching.network, ConvNet)
        network = copy.deepcopy(self.matching.network)
        return Calibration(network, weight=config.calibration_weight, classes=self._classes)

    def __call__(self, iteration: int) -> Drawn:
        """What ``iteration`` uses, with the network and the calibration set up for it."""
        drawing = self._config.drawn_in(iteration)
        if self._held is not None and self._held.iteration == drawing != iteration:
            return self._held
        generator = generator_for(self._config.seed, "iteration", drawing)
        self.matching.prepare(drawing, generator)
        if self.calibration is not None and self.matching.calibrating is not None:
            set_weights(self.calibration.network, self.matching.calibrating)
            if self._config.calibrates_by_accuracy:
                self.calibration.share = self.matching.accuracy
        if self._representatives is not None:
            self._representatives.renew(drawing)
        augmentation = self.augmentation.draw(self._classes, generator)
        self._held = Drawn(iteration=drawing, augmentation=augmentation)
        return self._held

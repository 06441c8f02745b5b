"""Trackers that log a run elsewhere: TensorBoard, and trackers of plugins (W&B, MLflow, trackio) by entry point."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from atom_plugin.errors import ConfigError, MissingExtraError
from atom_plugin.runtime.registry import Registry

_logger = logging.getLogger("atom_plugin")


class Tracker(Protocol):
    """Logs one run."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of ``step``, counted from 1: "loss", "seconds" and, if measured, "accuracy" in [0, 1]."""

    def close(self) -> None:
        """The run has ended: finished, stopped, or failed."""


class TrackerMaker(Protocol):
    """The type of an entry point in the group ``atom_plugin.trackers``."""

    def __call__(self, target: str, *, name: str, config: Mapping[str, Any]) -> Tracker:
        """A tracker of the run ``name`` with the choices ``config`` (plain JSON).

        ``target`` is the user's text after the colon: a folder, a project or an address, "" for none. A resumed run opens it
        again, and continues with the next step.
        """


TRACKERS: Registry[TrackerMaker] = Registry("tracker", "atom_plugin.trackers")


class TensorBoard:
    """Scalars in TensorBoard's event files in the folder ``target``, and the run's choices as text.

    Raises MissingExtraError if tensorboard is not installed, ConfigError without a folder.
    """

    def __init__(self, target: str, *, name: str, config: Mapping[str, Any]) -> None:
        if not target:
            raise ConfigError("the tracker tensorboard needs a folder; give --tensorboard FOLDER")
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError(
                f"--tensorboard needs the package tensorboard, which cannot be imported ({error}): pip install tensorboard"
            ) from error
        self._writer: Any = SummaryWriter(log_dir=target)
        self._writer.add_text(name, f"```json\n{json.dumps(config, indent=2)}\n```")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each scalar."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write buffered values."""
        self._writer.close()


@contextmanager
def tracked(chosen: Sequence[str], *, name: str, config: Mapping[str, Any]) -> Iterator[Tracker]:
    """All of ``chosen`` as one tracker, each as NAME or NAME:TARGET.

    A tracker that fails during the run causes a warning, and is left out from then on, so that the run continues. Raises
    PluginError for an unknown name, and any error of a tracker while it is opened.
    """
    makers = [(each, TRACKERS.get(each.partition(":")[0])) for each in chosen]
    together = _Together()
    try:
        for each, make in makers:
            together.held[each] = make(each.partition(":")[2], name=name, config=config)
        yield together
    finally:
        together.close()


class _Together:
    """Trackers by the names that the user gave."""

    def __init__(self) -> None:
        self.held: dict[str, Tracker] = {}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, tracker in list(self.held.items()):
            try:
                tracker.log(step, values)
            except Exception as error:  # somebody else's code, and a network
                _logger.warning(
                    "the tracker %s is left out from step %d on: %s: %s", name, step, type(error).__name__, error
                )
                del self.held[name]

    def close(self) -> None:
        for name, tracker in self.held.items():
            try:
                tracker.close()
            except Exception as error:
                _logger.warning("the tracker %s could not be closed: %s: %s", name, type(error).__name__, error)

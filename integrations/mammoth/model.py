"""A model for Mammoth: experience replay from a memory that is distilled or selected at the end of each task.

Mammoth finds its models in its ``models`` folder. Add the file ``models/distilled_replay.py`` with only this line::

    from atom_plugin.integrations.mammoth.model import Buffer, DistilledReplay

Raises MissingExtraError (an ImportError) if Mammoth cannot be imported.
"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

import torch

from atom_plugin.errors import ConfigError, MissingExtraError
from atom_plugin.integrations.mammoth.buffers import fill_buffer
from atom_plugin.integrations.mammoth.task_memory import TaskMemory

try:
    from models.utils.continual_model import ContinualModel
    from utils.args import add_rehearsal_args
    from utils.buffer import Buffer
except ModuleNotFoundError as error:
    missing = (error.name or "").partition(".")[0]
    raise MissingExtraError(
        "Mammoth is not on Python's path; start its main.py, with a models/distilled_replay.py that imports this module"
        if missing in ("models", "utils")
        else f"Mammoth cannot be imported because {error.name!r} is missing; install the requirements in its pyproject.toml"
    ) from error

__all__ = ["Buffer", "DistilledReplay"]  # Mammoth expects a Buffer in the module of a model that has one


class DistilledReplay(ContinualModel):  # type: ignore[misc]  # Mammoth ships no types
    """Trains on each batch and equally many images of the memory; after each task, the task's classes join the memory.

    The buffer holds the memory's decoded images, one for each tile of a packed image. So it may hold more than
    ``--buffer_size``, which counts stored images.
    """

    NAME = "distilled-replay"
    COMPATIBILITY = ("class-il", "domain-il", "task-il")

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Mammoth's options for models with a buffer, and the options of :class:`TaskMemory`."""
        add_rehearsal_args(parser)
        parser.add_argument(
            "--memory",
            default="atom",
            help="Content of the buffer: images distilled with a matcher (atom, dm), or selected real ones (random, herding).",
        )
        parser.add_argument(
            "--memory_options",
            default="{}",
            help='Options of the distillation or selection as JSON, e.g. \'{"iterations": 300, "factor": 2}\'.',
        )
        parser.add_argument("--memory_set", help="A file with an existing synthetic set that fills the buffer instead.")
        return parser

    def __init__(self, backbone: Any, loss: Any, args: Any, transform: Any, dataset: Any = None) -> None:
        """Mammoth calls this. Raises ConfigError for options that do not fit, StoreError for a set that cannot be read."""
        super().__init__(backbone, loss, args, transform, dataset=dataset)
        self.buffer = Buffer(args.buffer_size)
        self.memory = TaskMemory(
            args.buffer_size,
            classes=self.dataset.N_CLASSES,
            fill=args.memory,
            options=args.memory_options,
            stored=args.memory_set,
            seed=args.seed or 0,
            device=str(self.device),
        )

    def observe(
        self, inputs: torch.Tensor, labels: torch.Tensor, not_aug_inputs: torch.Tensor, epoch: int | None = None
    ) -> float:
        """One step on a batch of the stream and a batch of the memory, with the same transforms."""
        if not self.buffer.is_empty():
            size = self.args.minibatch_size or len(inputs)
            # Mammoth appends the buffer's other attributes after the labels.
            drawn, classes, *_ = self.buffer.get_data(size, transform=self.transform, device=self.device)
            inputs, labels = torch.cat([inputs, drawn]), torch.cat([labels, classes])
        self.opt.zero_grad()
        loss = self.loss(self.net(inputs), labels)
        loss.backward()
        self.opt.step()
        return float(loss.detach())

    def end_task(self, dataset: Any) -> None:
        """Add the task's classes to the memory. Raises the errors of distillation and selection."""
        if self.current_task < (self.args.start_from or 0):
            return  # Mammoth also ends the tasks that it skips; only a checkpoint's memory may have their images
        self.memory.add_task(dataset)
        self._refill()

    def get_extra_state(self) -> torch.Tensor:
        """The bytes of the memory's file, which Mammoth's checkpoints store; none for an empty memory."""
        return self.memory.as_bytes()

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Continue with a checkpoint's memory. Raises StoreError if it is damaged."""
        if len(state):
            self.memory.restore(state)
            self._refill()

    def load_buffer(self, buffer: Any) -> None:
        """Does nothing: the buffer was made from the checkpoint's memory. Raises ConfigError if there is no memory."""
        if self.buffer.is_empty():
            raise ConfigError(
                "the checkpoint holds no memory of distilled images, only a buffer; use a checkpoint of this model"
            )

    def _refill(self) -> None:
        images = self.memory.images
        self.buffer = Buffer(images.decoded_count)  # Mammoth's resizing of a buffer is unreliable
        fill_buffer(self.buffer, images)

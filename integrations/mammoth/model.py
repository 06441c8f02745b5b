"""A model for Mammoth: experience replay from a memory that is distilled, or selected, at the end of each task.

Mammoth finds its models in its ``models`` folder. Put this there as ``models/distilled_replay.py``, and nothing else::

    from atom_plugin.integrations.mammoth.model import Buffer, DistilledReplay

Raises MissingExtraError (an ImportError) where Mammoth is not to be found.
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
        else f"Mammoth cannot be imported, since {error.name!r} is missing; install what its pyproject.toml asks for"
    ) from error

__all__ = ["Buffer", "DistilledReplay"]  # Mammoth looks for a Buffer beside a model that has one


class DistilledReplay(ContinualModel):  # type: ignore[misc]  # Mammoth ships no types
    """Trains on each batch and as many images of the memory; when a task ends, the memory takes in the task's classes.

    The buffer holds the memory's images as networks see them: of packed ones each tile, so that it may have more than
    ``--buffer_size``, which counts stored images.
    """

    NAME = "distilled-replay"
    COMPATIBILITY = ("class-il", "domain-il", "task-il")

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Mammoth's options of models with a buffer, and those of :class:`TaskMemory`."""
        add_rehearsal_args(parser)
        parser.add_argument(
            "--memory",
            default="atom",
            help="What fills the buffer: a matcher that distils (atom, dm), or a choice of real images (random, herding).",
        )
        parser.add_argument(
            "--memory_options",
            default="{}",
            help='Choices of the distillation or selection as JSON, e.g. \'{"iterations": 300, "factor": 2}\'.',
        )
        parser.add_argument(
            "--memory_set", help="A file with a synthetic set, made before, that fills the buffer instead."
        )
        return parser

    def __init__(self, backbone: Any, loss: Any, args: Any, transform: Any, dataset: Any = None) -> None:
        """As Mammoth calls it. Raises ConfigError for options that do not fit, StoreError for a set that cannot be read."""
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
        """One step on a batch of the stream and one of the memory, transformed as the stream is."""
        if not self.buffer.is_empty():
            size = self.args.minibatch_size or len(inputs)
            # Mammoth adds what else the buffer holds behind the labels.
            drawn, classes, *_ = self.buffer.get_data(size, transform=self.transform, device=self.device)
            inputs, labels = torch.cat([inputs, drawn]), torch.cat([labels, classes])
        self.opt.zero_grad()
        loss = self.loss(self.net(inputs), labels)
        loss.backward()
        self.opt.step()
        return float(loss.detach())

    def end_task(self, dataset: Any) -> None:
        """Take in the task's classes. Raises what distillation and selection raise."""
        if self.current_task < (self.args.start_from or 0):
            return  # Mammoth runs through the tasks it skips; their images are in the checkpoint's memory, if anywhere
        self.memory.add_task(dataset)
        self._refill()

    def get_extra_state(self) -> torch.Tensor:
        """The memory's file, byte by byte, so that Mammoth's checkpoints hold it; no bytes while it is empty."""
        return self.memory.as_bytes()

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Go on with a checkpoint's memory. Raises StoreError for a damaged one."""
        if len(state):
            self.memory.restore(state)
            self._refill()

    def load_buffer(self, buffer: Any) -> None:
        """Nothing: a checkpoint's buffer is made anew from its memory, read before. Raises ConfigError where there is none."""
        if self.buffer.is_empty():
            raise ConfigError(
                "the checkpoint holds no memory of distilled images, only a buffer; go on from one of this model"
            )

    def _refill(self) -> None:
        images = self.memory.images
        self.buffer = Buffer(images.decoded_count)  # its size cannot be changed soundly later
        fill_buffer(self.buffer, images)

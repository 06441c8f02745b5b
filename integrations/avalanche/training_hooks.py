"""Hooks for the strategies of an experiment: the same for all policies, and without Avalanche's warnings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin

from atom_plugin.runtime.randomness import generator_for


def small_seed(seed: int, *purpose: str | int) -> int:
    """A seed for one purpose, of 32 bits, which numpy also accepts."""
    return generator_for(seed, *purpose).initial_seed() % 2**32


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warnings of Avalanche's code about its deprecated parts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"avalanche\.")
        yield


class TrainingHooks(SupervisedPlugin):  # type: ignore[misc]
    """Seeds each epoch, converts batches to the layout in which convolutions are fast, and reports each epoch's end.

    Policies draw different amounts from the global generator. A new seed for each epoch gives all policies the same order.
    """

    def __init__(self, purpose: tuple[int, str, int, int], on_epoch: Callable[[], object] | None) -> None:
        super().__init__()
        self._purpose = purpose
        self._on_epoch = on_epoch

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Seed the generator that shuffles the stream."""
        clock = strategy.clock
        torch.manual_seed(small_seed(*self._purpose, clock.train_exp_counter, clock.train_exp_epochs))

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Convert the batch to the fast memory layout."""
        strategy.mbatch[0] = strategy.mbatch[0].contiguous(memory_format=torch.channels_last)

    before_eval_forward = before_forward

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Tell."""
        if self._on_epoch is not None:
            self._on_epoch()


def accuracies(strategy: Any, benchmark: Any, step: int) -> list[float]:
    """The accuracy on the test images of each experience up to ``step``, among all classes seen, without masking."""
    metrics = strategy.eval(benchmark.test_stream[: step + 1])
    return [
        float(metrics[f"Top1_Acc_Exp/eval_phase/test_stream/Exp{experience:03d}"]) for experience in range(step + 1)
    ]

"""How the strategies of an experiment are run: alike for all policies, and without Avalanche's own warnings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin

from atom_plugin.runtime.randomness import generator_for


def small_seed(seed: int, *purpose: str | int) -> int:
    """A seed for one purpose that numpy takes, too: 32 bits."""
    return generator_for(seed, *purpose).initial_seed() % 2**32


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings that Avalanche's own code gives of its own deprecated parts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"avalanche\.")
        yield


class TrainingHooks(SupervisedPlugin):  # type: ignore[misc]
    """A seed for each epoch, batches in the layout in which convolutions are fast, and a word after each epoch.

    Policies draw different amounts from the global generator. Seeded anew for each epoch, it shuffles the stream alike for all.
    """

    def __init__(self, purpose: tuple[int, str, int, int], on_epoch: Callable[[], object] | None) -> None:
        super().__init__()
        self._purpose = purpose
        self._on_epoch = on_epoch

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Seed the generator that shuffles."""
        clock = strategy.clock
        torch.manual_seed(small_seed(*self._purpose, clock.train_exp_counter, clock.train_exp_epochs))

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Lay out the batch."""
        strategy.mbatch[0] = strategy.mbatch[0].contiguous(memory_format=torch.channels_last)

    before_eval_forward = before_forward

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Tell."""
        if self._on_epoch is not None:
            self._on_epoch()


def accuracies(strategy: Any, benchmark: Any, step: int) -> list[float]:
    """The accuracy on the test images of each experience up to ``step``, of all classes seen, without masking."""
    metrics = strategy.eval(benchmark.test_stream[: step + 1])
    return [
        float(metrics[f"Top1_Acc_Exp/eval_phase/test_stream/Exp{experience:03d}"]) for experience in range(step + 1)
    ]

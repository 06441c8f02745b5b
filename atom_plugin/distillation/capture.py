"""Whether a run takes the step that a CUDA device runs without the host, and that step, made from the run's parts."""

from __future__ import annotations

from collections.abc import Callable

from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.engine import Engine
from atom_plugin.distillation.engine.chunking import Chunks
from atom_plugin.distillation.engine.cuda_inputs import StepInputs
from atom_plugin.distillation.engine.cuda_step import CapturedStep, suits_captured_step
from atom_plugin.distillation.engine.real_batches import RealBatches
from atom_plugin.distillation.iteration_draws import IterationDraws
from atom_plugin.distillation.network_config import QUEUE
from atom_plugin.distillation.run_images import RunImages
from atom_plugin.matchers import Matcher, MeanMatcher
from atom_plugin.models.convnet import ConvNet
from atom_plugin.runtime import distributed


def is_captured(config: DistillConfig, engine: Engine, matcher: Matcher, chunks: Chunks) -> bool:
    """Whether the run's steps are a :class:`~atom_plugin.distillation.engine.cuda_step.CapturedStep`.

    Its draws are made ahead, each from an iteration's number alone, and its losses have fixed weights. Runs whose steps share a
    network, or train it, or choose real batches under it, take the plain step with the same engine.
    """
    drawn = config.network_state != QUEUE and not config.pretraining_epochs
    fresh = drawn and config.inner_loop == 1 and config.cluster_every is None and not config.calibrates_by_accuracy
    whole = len(chunks.own_chunks) == 1 and distributed.count() == 1
    return suits_captured_step(engine, matcher, whole=whole, fresh_networks=fresh)


def capture(
    config: DistillConfig,
    matcher: Matcher,
    draws: IterationDraws,
    batches: RealBatches,
    images: RunImages,
    *,
    on_loss: Callable[[int, float], None],
    fused: bool,
) -> CapturedStep:
    """The captured step on the current ``images``; the last two arguments are CapturedStep's."""
    network = draws.matching.network
    assert isinstance(matcher, MeanMatcher) and isinstance(network, ConvNet)
    inputs = StepInputs(
        network,
        draws.augmentation,
        batches,
        rate=images.optimizer.rate,
        draw_into=draws.matching.draw_into,
        calibrates=draws.calibration is not None,
    )
    return CapturedStep(
        matcher,
        inputs,
        batches,
        images.optimizer,
        decode=images.decode,
        calibration=draws.calibration,
        precision=config.precision,
        on_loss=on_loss,
        fused=fused,
    )

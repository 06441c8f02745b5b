"""The loop: SGD on the synthetic images, with a new random network in each iteration.

One iteration (ATOM, algorithm 1): draw a network, draw a real batch of every class, apply the same augmentation to each class's
real and synthetic images, compare their features, update the images with the gradient. A network may serve several iterations,
and be trained on the synthetic images in between (:mod:`.matching_network`). Classes may pass in chunks, and be divided among
processes (:mod:`.engine.chunking`); random draws are for all classes, the same in every process.
"""

from __future__ import annotations

import contextlib
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from atom_plugin.datasets import SourceData
from atom_plugin.distillation.checkpoint import Checkpoint
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.distiller import Distiller
from atom_plugin.distillation.engine.cuda_step import PendingLoss
from atom_plugin.errors import DivergenceError, Interrupted, ProcessError, StoreError
from atom_plugin.runtime import distributed
from atom_plugin.runtime.progress import phase
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The argument of a caller's callback after each iteration. ``snapshot`` returns the current set: call it in all processes
    of a run, or in none.

    An accelerator may still be computing the iteration: ``ready`` says whether it is done, and ``loss`` and ``snapshot`` wait
    for it. ``seconds`` is the host's time, close to the device's only in the mean over many iterations.
    """

    iteration: int
    seconds: float
    snapshot: Callable[[], SyntheticSet]
    pending: PendingLoss

    @property
    def loss(self) -> float:
        """The loss before the iteration's update."""
        return self.pending()

    @property
    def ready(self) -> bool:
        """Whether ``loss`` is available without waiting."""
        return self.pending.ready


def distill(
    config: DistillConfig,
    data: SourceData,
    *,
    device: str = "auto",
    engine: str = "auto",
    preprocessing: Preprocessing | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = 100,
    resume: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    stop_signal: Callable[[], int] | None = None,
) -> SyntheticSet:
    """Distil ``data`` into ``config.ipc`` synthetic images per class.

    ``engine`` is one of :data:`~atom_plugin.distillation.engine.ENGINES`: "plain" works for any network and device, "auto"
    takes the fastest one that works. ``preprocessing`` None fits the config's preprocessing on the training images. A
    checkpoint is written to ``checkpoint`` every ``checkpoint_every`` iterations, and when ``stop_signal``, called after each
    iteration, returns a signal number other than 0: then Interrupted is raised. ``resume`` continues from that file, or starts
    if there is none yet; the result is the same to the byte. Raises ConfigError for options that do not fit, SourceError for
    too few images, DivergenceError for a loss that is not finite. If ``on_progress`` or the checkpoint raises StoreError (a
    full disk, say), the state is saved elsewhere if possible, and the message says where.

    Within :func:`atom_plugin.runtime.distributed.joined` every process calls this with the same arguments, and gets the whole
    set; the first one writes the checkpoints, and a signal to any process stops all. Raises ProcessError if another process
    ends.
    """
    with phase("preparing the run"):
        distiller = Distiller(config, data, device=device, engine=engine, preprocessing=preprocessing)
    if resume and checkpoint is not None and checkpoint.exists():
        distiller.restore(Checkpoint.load(checkpoint), checkpoint)
    with distiller.running(), _naming_what_is_kept(distiller, checkpoint):
        while distiller.iteration < distiller.config.iterations:
            started = time.perf_counter()
            pending = distiller.launch()
            if on_progress is not None:
                seconds = time.perf_counter() - started
                snapshot = distiller.synthetic_set
                on_progress(
                    Progress(iteration=distiller.iteration, seconds=seconds, snapshot=snapshot, pending=pending)
                )
            signum = int(distributed.highest(0 if stop_signal is None else stop_signal()))
            unfinished = distiller.iteration < distiller.config.iterations
            if checkpoint is not None and unfinished and (signum or distiller.iteration % checkpoint_every == 0):
                state = distiller.state()
                if distributed.leads():
                    state.save(checkpoint)
            if signum and unfinished:
                raise Interrupted(f"Stopped after iteration {distiller.iteration}{_to_resume(checkpoint)}", signum)
    return distiller.synthetic_set()


def _to_resume(checkpoint: Path | None) -> str:
    return "" if checkpoint is None else f"; continue with --resume (checkpoint: {checkpoint})"


@contextlib.contextmanager
def _naming_what_is_kept(distiller: Distiller, checkpoint: Path | None) -> Iterator[None]:
    try:
        yield
    except (DivergenceError, ProcessError, StoreError) as error:
        if checkpoint is None:
            raise
        if isinstance(error, StoreError) and distributed.count() == 1:
            words = _saved(distiller, checkpoint)
        else:
            words = f"the last good checkpoint is kept in {checkpoint}" if checkpoint.exists() else ""
        if not words:
            raise
        raise type(error)(f"{error}; {words}") from error.__cause__


def _saved(distiller: Distiller, checkpoint: Path) -> str:
    """Write the state of a run that cannot continue to ``checkpoint``, or if that fails among the temporary files.

    Returns where it is and how to continue; nothing if it could not be written at all.
    """
    state = distiller.state()
    kept = f"the state after iteration {state.iteration} is kept in"
    with contextlib.suppress(StoreError):
        state.save(checkpoint)
        return f"{kept} {checkpoint}: continue with --resume"
    with contextlib.suppress(StoreError, OSError):
        path = Path(tempfile.mkdtemp(prefix="atom-plugin-")) / checkpoint.name
        state.save(path)
        return f"{kept} {path}: run  mv {shlex.quote(str(path))} {shlex.quote(str(checkpoint))}  and continue with --resume"
    return ""

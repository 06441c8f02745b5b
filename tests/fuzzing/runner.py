"""Runs cases one after the other in this process, and measures each."""

from __future__ import annotations

import contextlib
import io
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from fuzzing.files import KINDS, Case, Kind, prepare
from fuzzing.options import option_case

from atom_plugin.cli.main import main

MOST_SECONDS, MOST_BYTES = 10.0, 2 * 2**30
_MOST_ADDRESSES = 16 * 2**30  # a case that asks for more is refused by the system rather than ending other programs
ALL: dict[str, tuple[Kind, int]] = {**KINDS, "options": (option_case, 40)}


@dataclass(frozen=True)
class Found:
    """What a case came to: the exit code, what it printed on stderr, how long it took, and the process's peak meanwhile."""

    kind: str
    seed: int
    arguments: Case
    code: int
    error: str
    seconds: float
    peak: int

    @property
    def fault(self) -> str:
        """What is wrong with that, in words; empty where it is as it should be."""
        if "internal error" in self.error or "Traceback" in self.error:
            return "internal error"
        if self.code not in (0, 1, 2):
            return f"exit code {self.code}"
        if self.code and self.arguments[:2] != ["store", "verify"] and not self.error.strip():
            return "fails without a word"
        if self.seconds > MOST_SECONDS:
            return f"takes {self.seconds:.0f} s"
        if self.peak > MOST_BYTES:
            return f"takes {self.peak / 1e9:.1f} GB"
        return ""

    def __str__(self) -> str:
        words = " ".join(word if len(word) < 60 else f"{word[:60]}…" for word in self.arguments)
        what = f"{self.fault or self.code} ({self.seconds:.1f} s, {self.peak / 1e9:.1f} GB)"
        return f"{self.kind} --seed {self.seed}: {what}: {words!r}: {self.error[-400:]!r}"


@contextlib.contextmanager
def sound_files() -> Iterator[Path]:
    """A folder with sound files of every kind, removed afterwards."""
    base = Path(tempfile.mkdtemp(prefix="atom-plugin-fuzz-"))
    try:
        with _inside(base):
            prepare(base, _must_succeed)
            _keep_checkpoint()
        yield base
    finally:
        shutil.rmtree(base, ignore_errors=True)


def seeds(first: int, count: int, only: str = "") -> Iterator[tuple[str, int]]:
    """Kinds and seeds of ``count`` cases, all kinds in turn by their shares."""
    for seed in range(first, first + count):
        names = [name for name in ALL if name.startswith(only)]
        yield random.Random(seed).choices(names, [ALL[name][1] for name in names])[0], seed


def run_case(kind: str, seed: int, base: Path) -> Found:
    """Make the case in a folder of its own, and run it there."""
    chance = random.Random(f"{kind} {seed}")
    folder = Path(tempfile.mkdtemp(prefix="atom-plugin-fuzz-"))
    try:
        with _inside(folder):
            arguments = ALL[kind][0](base, chance)
            _forget_peak()
            # The processor's time, which does not depend on what else the machine does; the parent sees who waits for ever.
            start = time.process_time()
            code, error = _run(arguments)
            return Found(kind, seed, arguments, code, error, time.process_time() - start, _peak())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def work(base: Path, cases: list[tuple[str, int]], results: Connection) -> None:
    """A process's part: None when it begins, and then what each case comes to, sent as it is known."""
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_ADDRESSES, _MOST_ADDRESSES))
    for kind in ("log", "results", "stream"):  # what these import is no case's time
        run_case(kind, 0, base)
    results.send(None)
    for kind, seed in cases:
        results.send(run_case(kind, seed, base))


def _run(arguments: Case) -> tuple[int, str]:
    """The exit code and stderr of a command, its streams as a terminal's: UTF-8, and nothing else can be printed."""
    out, error = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = main(arguments)
    return code, error.buffer.getvalue().decode()  # type: ignore[attr-defined]


def _must_succeed(arguments: Case) -> None:
    code, error = _run(arguments)
    if code:
        raise RuntimeError(f"{arguments}: {error}")


def _keep_checkpoint() -> None:
    """That of a run that was stopped after two of its steps."""
    from fuzzing.files import LOOP, RUN

    from atom_plugin.distillation import loop

    def stop(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    keep, loop.Distiller.synthetic_set = loop.Distiller.synthetic_set, stop  # type: ignore[method-assign,assignment]
    try:
        _run([*RUN, *LOOP, "-o", "stopped.h5", "--checkpoint-every", "1"])
    finally:
        loop.Distiller.synthetic_set = keep  # type: ignore[method-assign]
    Path("stopped.checkpoint").rename("kept.checkpoint")


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _forget_peak() -> None:
    """Let the kernel count this process's peak of memory from here; where it cannot, the peak is that of all cases."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """In bytes."""
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024

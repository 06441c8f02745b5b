"""Runs that are stopped: by Ctrl-C, by SIGTERM, by SIGKILL at any moment. What they leave, and what resuming gives."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atom_plugin import store

START = "import sys; from atom_plugin.cli.main import main; sys.exit(main())"
OPTIONS = (
    "--precision",
    "float32",
    "--ipc",
    "1",
    "--width",
    "8",
    "--iterations",
    "60",
    "--real-batch",
    "8",
    "--checkpoint-every",
    "5",
    "-o",
    "a.h5",
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", START, "distill", *OPTIONS, *more],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(folder: Path, *more: str) -> bytes:
    process = start(folder, *more)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return (folder / "a.h5").read_bytes()


def wait_for_steps(folder: Path, process: subprocess.Popen[str], steps: int) -> None:
    log = folder / "a.log.jsonl"
    for _ in range(1200):
        if log.exists() and log.read_bytes().count(b"\n") >= steps:
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    raise AssertionError("the run did not get going")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[bytes, float]:
    began = time.monotonic()
    return finish(tmp_path_factory.mktemp("whole")), time.monotonic() - began


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_state_and_says_how_to_go_on(tmp_path, undisturbed, number, code):
    process = start(tmp_path, "--iterations", "3000", "--quiet")
    wait_for_steps(tmp_path, process, 7)
    process.send_signal(number)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert errors.count("\n") == 1
    assert "--resume" in errors
    assert not (tmp_path / "a.h5").exists()
    assert (tmp_path / "a.checkpoint").exists()


def test_interrupted_and_resumed_writes_the_same_bytes_and_log(tmp_path, undisturbed):
    process = start(tmp_path, "--quiet")
    wait_for_steps(tmp_path, process, 8)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert finish(tmp_path, "--resume") == undisturbed[0]
    assert (tmp_path / "a.log.jsonl").read_text().count("\n") == 60
    assert not (tmp_path / "a.checkpoint").exists()


def kill_and_resume(folder: Path, undisturbed: tuple[bytes, float], moment: float) -> None:
    process = start(folder)
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if (folder / "a.h5").exists():
        assert store.verify(folder / "a.h5")
        assert (folder / "a.h5").read_bytes() == undisturbed[0]
    assert finish(folder, "--resume") == undisturbed[0]


def test_killed_twice_and_resumed(tmp_path, undisturbed):
    """In the middle of the run, and at its end."""
    kill_and_resume(tmp_path / "middle", undisturbed, 0.8 * undisturbed[1])
    kill_and_resume(tmp_path / "end", undisturbed, 0.99 * undisturbed[1])


@pytest.mark.slow
def test_killed_at_twenty_random_moments(tmp_path, undisturbed):
    moments = random.Random(0)
    for number in range(20):
        kill_and_resume(tmp_path / str(number), undisturbed, moments.uniform(0.3, 1.05) * undisturbed[1])

"""Distillation in several processes: the same result as in one, whatever the normalisation, and what a run survives."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from groups import in_processes
from small import BFLOAT16_LOSS, BFLOAT16_WAY, coloured_source, small_config

from atom_plugin.cli.main import main
from atom_plugin.distillation.distiller import Distiller
from atom_plugin.distillation.engine import choose_engine
from atom_plugin.distillation.engine.chunking import PassSize
from atom_plugin.distillation.loop import distill
from atom_plugin.errors import ConfigError, Interrupted, ProcessError
from atom_plugin.matchers import make_matcher
from atom_plugin.models.convnet import NORMALISATIONS
from atom_plugin.runtime import distributed

CLASSES = 5  # not a multiple of two: the processes own two and three
pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes and signals as POSIX has them")


def every_run():
    """Small runs, by name: each normalisation, chunks as well, a trained network, another matcher."""
    runs = {name: small_config(iterations=3, network={"normalisation": name}) for name in sorted(NORMALISATIONS)}
    network = runs["instance"].network.build((3, 8, 8), CLASSES)
    engine = choose_engine("auto", network, network.features, torch.device("cpu"))
    size = PassSize.of(make_matcher("atom"), engine, (3, 8, 8), real_batch=5, ipc=2)
    runs["instance in chunks"] = dataclasses.replace(runs["instance"], memory_budget=size.bytes_of(2))
    runs["trained"] = small_config(iterations=4, inner_loop=2, network_epochs=1, network={"normalisation": "batch"})
    shared = {"iterations": 4, "inner_loop": 3, "share_real": True}
    runs["shared"] = small_config(**shared, network={"normalisation": "batch"})
    runs["shared in chunks"] = dataclasses.replace(runs["instance in chunks"], **shared)
    runs["queue"] = small_config(iterations=3, network_state="queue")
    runs["pool"] = small_config(iterations=2, network_state="trained:1", network_pool=2)
    for name in ("batch", "instance"):
        runs[f"{name} in bfloat16"] = dataclasses.replace(runs[name], precision="bfloat16")
    runs["packed"] = small_config(iterations=3, factor=2, network={"normalisation": "batch"})
    runs["packed pixels in chunks"] = dataclasses.replace(
        runs["instance in chunks"], factor=2, storage="uint8", memory_budget=size.bytes_of(5)
    )
    runs["resnet"] = small_config(iterations=2, matching_model="resnet18")
    runs["resnet, batch"] = small_config(iterations=2, matching_model="timm:resnet18")
    runs["dc"] = small_config(iterations=2, matcher="dc")
    runs["dm"] = small_config(iterations=2, matcher="dm", matcher_options={"kernel": "mixture"})
    return runs


def run_all() -> dict[str, Any]:
    found = {}
    data = coloured_source(classes=CLASSES)
    with distributed.joined("cpu"):
        for name, config in every_run().items():
            losses: list[float] = []
            result = distill(config, data, device="cpu", on_progress=lambda p: losses.append(p.loss))  # noqa: B023
            found[name] = (losses, result.images, result.provenance.config)
    return found


def test_two_processes_give_the_set_of_one():
    alone, (first, second) = run_all(), in_processes(2, run_all)
    for name, (losses, images, config) in alone.items():
        narrow = config["precision"] == "bfloat16"
        assert first[name][0] == pytest.approx(losses, rel=BFLOAT16_LOSS if narrow else 2e-4), name
        if narrow:
            start = Distiller(every_run()[name], coloured_source(classes=CLASSES), device="cpu").images
            assert (first[name][1] - images).norm() < BFLOAT16_WAY * (images - start).norm(), name
        else:
            torch.testing.assert_close(first[name][1], images, rtol=1e-3, atol=2e-4, msg=lambda m: f"{name}: {m}")  # noqa: B023
        assert torch.equal(first[name][1], second[name][1]), name
        assert first[name][0] == second[name][0]
        assert first[name][2] == config


def parts_of_a_process():
    with distributed.joined("cpu"):
        distiller = Distiller(every_run()["instance in chunks"], coloured_source(classes=CLASSES), device="cpu")
        return distiller.chunks, len(distiller.images)


def test_each_process_owns_its_classes_alone():
    (first, own), (second, others) = in_processes(2, parts_of_a_process)
    assert first.owners == second.owners == (range(0, 2), range(2, 5))
    assert (own, others) == (4, 6)
    assert [len(chunk) for chunk in second.own_chunks] == [1, 2]


def go_on(path: Path, stop_after: int | None):
    """A run up to a signal that one process alone gets, or from the checkpoint to the end."""
    config = every_run()["instance in chunks"]
    config = dataclasses.replace(config, iterations=6, inner_loop=3, network_epochs=1)
    seen: list[int] = []
    with distributed.joined("cpu"):
        last = distributed.rank() == distributed.count() - 1
        run = {
            "checkpoint": path,
            "checkpoint_every": 100,
            "resume": True,
            "on_progress": lambda p: seen.append(p.iteration),
            "stop_signal": lambda: 2 if last and len(seen) == stop_after else 0,
        }
        if stop_after is None:
            return distill(config, coloured_source(classes=CLASSES), device="cpu", **run).images, seen
        with pytest.raises(Interrupted, match=r"after iteration \d; continue with --resume") as caught:
            distill(config, coloured_source(classes=CLASSES), device="cpu", **run)
        return caught.value.signum, seen


def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    whole, _ = go_on(tmp_path / "never.checkpoint", None)
    path = tmp_path / "run.checkpoint"
    assert go_on(path, 1) == (2, [1])
    assert in_processes(2, go_on, path, 1) == [(2, [2])] * 2
    assert torch.load(path)["images"].shape[0] == CLASSES * 2
    for images, seen in in_processes(3, go_on, path, None):
        torch.testing.assert_close(images, whole, rtol=1e-3, atol=2e-4)
        assert seen == [3, 4, 5, 6]
    images, seen = go_on(path, None)
    torch.testing.assert_close(images, whole, rtol=1e-3, atol=2e-4)
    assert seen == [3, 4, 5, 6]


def refused():
    lines = []
    with distributed.joined("cpu"):
        for config, classes in (
            (small_config(), 1),
            (small_config(matcher="cafe"), CLASSES),
            (small_config(matcher="dc", network={"normalisation": "batch"}), CLASSES),
        ):
            with pytest.raises(ConfigError) as caught:
                distill(config, coloured_source(classes=classes), device="cpu")
            lines.append(str(caught.value))
    return lines


def test_what_cannot_be_shared_is_refused_in_a_line():
    for many, inseparable, fixed in in_processes(2, refused):
        assert many == "2 processes for 1 classes; start at most one per class"
        assert "Cafe compares all classes at once, which is impossible with 2 processes" in inseparable
        assert "choose another --normalisation" in fixed


def die_in_a_step(path: Path):
    config = small_config(iterations=50, network={"normalisation": "batch"})

    def look(progress):
        if progress.iteration == 4 and not distributed.leads():
            os._exit(9)

    with distributed.joined("cpu"), pytest.raises(ProcessError) as caught:
        distill(config, coloured_source(), device="cpu", checkpoint=path, checkpoint_every=2, on_progress=look)
    return str(caught.value)


def test_a_process_that_dies_stops_the_others_and_leaves_the_checkpoint(tmp_path):
    line, dead = in_processes(2, die_in_a_step, tmp_path / "run.checkpoint")
    assert dead is None
    assert "lost the others" in line
    assert f"the last good checkpoint is kept in {tmp_path / 'run.checkpoint'}" in line
    assert "\n" not in line


OPTIONS = (
    *("--ipc", "1", "--width", "8", "--real-batch", "8", "--iterations", "100000", "--checkpoint-every", "10"),
    *("--precision", "float32"),
)


def command(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """The command in this process, as torchrun starts it: exit code, stdout, stderr."""
    os.chdir(folder)
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as errors:
        code = main(["distill", *OPTIONS, "--quiet", *arguments])
    return code, out.getvalue(), errors.getvalue()


def signalled_command(folder: Path, number: int) -> tuple[int, str, str]:
    def send() -> None:
        log = folder / "a.log.jsonl"
        while not (log.exists() and log.read_bytes().count(b"\n") > 3):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    if os.environ["RANK"] == "1":
        threading.Thread(target=send, daemon=True).start()
    return command(folder, "-o", "a.h5")


def test_the_command_writes_and_prints_once(tmp_path):
    results = in_processes(2, command, tmp_path, "--iterations", "3", "-o", "a.h5", "--preview-every", "2", "--plot")
    assert [code for code, *_ in results] == [0, 0]
    assert [bool(out) for _, out, _ in results] == [True, False]
    assert [errors for *_, errors in results] == ["", ""]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.000002.png", "a.h5", "a.log.jsonl", "a.loss.png"]
    assert (tmp_path / "a.log.jsonl").read_bytes().count(b"\n") == 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_one_stops_all_and_saves_the_state(tmp_path, number, code):
    results = in_processes(2, signalled_command, tmp_path, number)
    assert [(found, out) for found, out, _ in results] == [(code, "")] * 2
    errors = "".join(errors for *_, errors in results)
    assert errors.count("\n") == 1
    assert "continue with --resume" in errors
    assert torch.load(tmp_path / "a.checkpoint")["images"].shape[0] == 10
    assert not (tmp_path / "a.h5").exists()


def test_wrong_options_are_one_line_of_one_process(tmp_path):
    for arguments in (["--matcher", "cafe"], ["--memory-budget", "1KB"], ["--memory-budget", "2 gigs"], ["--ipc", "0"]):
        results = in_processes(2, command, tmp_path, *arguments)
        assert [code for code, *_ in results] == [2, 2]
        assert "".join(errors for *_, errors in results).count("\n") == 1, results
    assert list(tmp_path.iterdir()) == []


SCRIPT = "import sys; from atom_plugin.cli.main import main; sys.exit(main())"


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    """torchrun's two processes, each of which first writes its number beside the set."""
    (folder / "run.py").write_text(
        "import os, pathlib; pathlib.Path(f'pid-{os.environ[\"RANK\"]}').write_text(str(os.getpid()))\n" + SCRIPT
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "run.py"]
    return subprocess.Popen(
        [*command, "distill", *OPTIONS, "-o", "a.h5", *more],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for_steps(folder: Path, process: subprocess.Popen[str], steps: int) -> None:
    log = folder / "a.log.jsonl"
    for _ in range(6000):
        if log.exists() and log.read_bytes().count(b"\n") >= steps:
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    raise AssertionError("the run did not get going")


@pytest.mark.slow
def test_torchrun_ctrl_c_then_the_death_of_one_then_the_end(tmp_path):
    process = start(tmp_path, "--quiet")
    wait_for_steps(tmp_path, process, 3)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert (out, process.returncode != 0) == ("", True)
    assert errors.count("continue with --resume") == 1
    assert (tmp_path / "a.checkpoint").exists()
    done = (tmp_path / "a.log.jsonl").read_bytes().count(b"\n")

    process = start(tmp_path, "--quiet", "--resume")
    wait_for_steps(tmp_path, process, done + 25)
    os.kill(int((tmp_path / "pid-1").read_text()), signal.SIGKILL)
    killed = time.monotonic()
    out, errors = process.communicate(timeout=60)
    assert time.monotonic() - killed < 30
    assert (out, process.returncode != 0) == ("", True)
    (line,) = (line for line in errors.splitlines() if line.startswith("Error: "))
    assert "lost the others" in line
    assert "the last good checkpoint is kept in a.checkpoint" in line
    assert not (tmp_path / "a.h5").exists()
    assert torch.load(tmp_path / "a.checkpoint")["iteration"] > done

"""Nobody's files are lost to a command, and no finished work to a file: as a user meets it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import run
from synthetic_sets import make_set

from atom_plugin.cli.main import main
from atom_plugin.distillation.run_log import read_log
from atom_plugin.runtime.locks import locked
from atom_plugin.store.synthetic_set import SyntheticSet

QUICK = ("--width", "8", "--iterations", "4", "--real-batch", "4", "--quiet", "--precision", "float32")
DISTILL = ("distill", "--ipc", "1", *QUICK)
EVALUATE = (
    "consume",
    "evaluate",
    "s.h5",
    "--epochs",
    "1",
    "--repeats",
    "1",
    "--quiet",
    "--force",
    "--precision",
    "float32",
)
REPLAY = (
    "consume",
    "replay",
    "--ipc",
    "1",
    "--iterations",
    "1",
    "--epochs",
    "1",
    "--orders",
    "1",
    "--steps",
    "2",
    "--quiet",
    "--precision",
    "float32",
    "--finetune-steps",
    "2",
)
START = "import sys; from atom_plugin.cli.main import main; sys.exit(main())"


def start(*arguments: str, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", START, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **options,
    )


def refused(capsys, code: int, part: str, *arguments: str) -> str:
    """The command fails with one line that says ``part``, and every file stays as it was."""
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(list(arguments)) == code
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1), error
    assert part in error
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    return error


@pytest.fixture(scope="module")
def selected(tmp_path_factory) -> bytes:
    """A set of the digits."""
    path = tmp_path_factory.mktemp("selected") / "s.h5"
    assert main(["select", "--ipc", "1", "--precision", "float32", "-q", "-o", str(path)]) == 0
    return path.read_bytes()


READ = "which the command reads"
CASES = [
    (2, READ, (*EVALUATE, "--csv", "s.h5")),
    (2, READ, (*EVALUATE, "--chart", "s.h5")),
    (2, READ, (*EVALUATE, "--csv", "link.h5")),
    (2, READ, (*EVALUATE, "--chart", "S.H5")),
    (2, READ, (*EVALUATE, "--csv", "r.csv", "--results", "s.h5")),
    (2, "are the same file", (*EVALUATE, "--csv", "x", "--chart", "x")),
    (2, "are the same file", (*EVALUATE, "--csv", "x", "--results", "./x")),
    (
        2,
        READ,
        ("select", "--ipc", "1", "--precision", "float32", "--preprocessing-of", "s.h5", "-o", "s.h5", "--force", "-q"),
    ),
    (2, READ, ("store", "show", "s.h5", "-o", "s.h5", "--force")),
    (2, READ, ("store", "export", "s.h5", "--format", "npz", "-o", "s.h5", "--force")),
    (2, READ, ("store", "import", "s.h5", "--format", "npz", "-o", "s.h5", "--force")),
    (2, READ, ("store", "import", "x.pt", "--format", "pt", "--like", "s.h5", "-o", "s.h5", "--force")),
    (2, READ, ("store", "merge", "s.h5", "other.h5", "-o", "other.h5", "--force")),
    (2, READ, ("store", "subset", "s.h5", "--classes", "0", "-o", "s.h5", "--force")),
    (2, READ, (*DISTILL, "--dataset", "packed", "--data-dir", "pack", "-o", "pack/images.h5", "--force")),
    (2, READ, (*DISTILL, "--extend", "s.h5", "-o", "s.h5", "--force")),
    (2, READ, (*DISTILL, "--image-init", "set:s.h5", "-o", "s.h5", "--force")),
    (2, READ, (*DISTILL, "--pool", "x.pt", "-o", "x.pt", "--force")),
    (2, READ, (*REPLAY, "--memory", "p.memory/atom-order0-step0.h5", "-o", "p", "--force")),
    (1, "p.log.jsonl: exists, is not the log", (*DISTILL, "-o", "p.h5", "--resume")),
    (1, "q.loss.png: exists, is not the picture", (*DISTILL, "-o", "q.h5", "--plot", "--resume")),
    (1, "q.loss.png: exists, is not the picture", (*DISTILL, "-o", "q.h5", "--plot", "--force")),
    (1, "q.000002.png: exists, is not the picture", (*DISTILL, "-o", "q.h5", "--preview-every", "2", "--force")),
    (1, "r.checkpoint: exists, is not the checkpoint", (*DISTILL, "-o", "r.h5", "--force")),
    (1, "r.png: exists, is not the picture", (*REPLAY, "-o", "r", "--resume")),
    (1, "r.png: exists, is not the picture", (*REPLAY, "-o", "r", "--force")),
    (1, "t.jsonl: exists, is not the file of results", (*REPLAY, "-o", "t", "--force")),
    (1, "contains notes.txt, which was not written by a replay", (*REPLAY, "-o", "u", "--force")),
    (1, "found a line of a distillation's log", (*EVALUATE, "--csv", "r.csv", "--results", "s.log.jsonl")),
]


@pytest.mark.parametrize(("code", "part", "arguments"), CASES, ids=[" ".join(case[2]) for case in CASES])
def test_inputs_and_bystanders_are_kept(inside, capsys, selected, code, part, arguments):
    Path("s.h5").write_bytes(selected)
    Path("other.h5").write_bytes(selected)
    Path("link.h5").symlink_to("s.h5")
    Path("x.pt").write_bytes(b"")
    Path("s.log.jsonl").write_text('{"iteration": 1, "loss": 2.0, "seconds": 0.1}\n')
    for name in ("p.log.jsonl", "q.loss.png", "q.000002.png", "r.checkpoint", "r.png", "t.jsonl", "pack/images.h5"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("mine")
    for folder, name in (("p.memory", "atom-order0-step0.h5"), ("u.memory", "notes.txt")):
        Path(folder).mkdir()
        (Path(folder) / "configs.json").write_text("{}")
        (Path(folder) / name).write_bytes(selected)
    refused(capsys, code, part, *arguments)


# Logs.


def test_logs_and_results_have_names_of_their_own(inside, capsys):
    run(capsys, *DISTILL, "-o", "photos.h5")
    run(
        capsys,
        "consume",
        "evaluate",
        "photos.h5",
        "--epochs",
        "1",
        "--repeats",
        "1",
        "-q",
        "--precision",
        "float32",
        "--results",
        "photos.jsonl",
    )
    assert {path.name for path in inside.iterdir()} == {"photos.h5", "photos.log.jsonl", "photos.jsonl"}
    assert len(read_log(Path("photos.log.jsonl"))) == 4


def test_a_log_that_an_older_release_began_is_continued(inside, capsys, monkeypatch):
    """It stands under FILE.jsonl; its records are taken over, and it stays."""
    every = ("--checkpoint-every", "2", "-o", "a.h5")
    with monkeypatch.context() as patch:
        patch.setattr("atom_plugin.cli.distill.write_set", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main([*DISTILL, *every]) == 130
    capsys.readouterr()
    Path("a.log.jsonl").rename("a.jsonl")
    old = read_log(Path("a.jsonl"))
    run(capsys, *DISTILL, *every, "--resume", "--plot")
    assert [record["iteration"] for record in read_log(Path("a.log.jsonl"))] == [1, 2, 3, 4]
    assert read_log(Path("a.log.jsonl"))[:2] == old[:2]
    assert read_log(Path("a.jsonl")) == old


@pytest.mark.parametrize("more", [(), ("--resume",)])
def test_the_log_of_a_failed_run_is_kept_and_blocks_nothing(inside, capsys, more):
    Path("a.log.jsonl").write_text('{"iteration": 1, "loss": 2.0, "seconds": 0.1}\n')
    run(capsys, *DISTILL, "-o", "a.h5", *more)
    assert len(read_log(Path("a.log.jsonl"))) == 4
    assert read_log(Path("a.log-1.jsonl")) == [{"iteration": 1, "loss": 2.0, "seconds": 0.1}]


# Two runs, one name.


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_second_run_is_refused_at_once_and_names_the_first(inside, capsys, number):
    first = start(*DISTILL, "--iterations", "100000", "-o", "a.h5", cwd=inside)
    try:
        while not Path("a.log.jsonl").exists():
            assert first.poll() is None, first.communicate()[1]
            time.sleep(0.02)
        for other in (("-o", "a.h5"), ("-o", "a.hdf5"), ("-o", "a.h5", "--resume"), ("-o", "a.h5", "--force")):
            began = time.monotonic()
            assert main([*DISTILL, *other]) == 1
            assert time.monotonic() - began < 1
            error = capsys.readouterr().err
            assert error.count("\n") == 1
            assert f"process {first.pid} on " in error
        assert main(["select", "--ipc", "1", "--precision", "float32", "-q", "-o", "a.h5"]) == 1
        assert f"process {first.pid} on " in capsys.readouterr().err
    finally:
        first.send_signal(number)
        first.communicate()
    locks = list(inside.glob(".*.lock"))
    assert locks if number == signal.SIGKILL else not locks
    assert main([*DISTILL, "-o", "a.h5", "--force"]) == 0
    assert not list(inside.glob(".*"))


@pytest.mark.parametrize(("option", "name"), [("--csv", "r.csv"), ("--chart", "r.png")])
def test_a_taken_name_is_found_out_before_torch_is_loaded(inside, option, name):
    with locked(Path(name), "another"):
        code = f"{START.rpartition(';')[0]}; code = main(); assert 'torch' not in sys.modules; sys.exit(code)"
        done = subprocess.run(
            [sys.executable, "-c", code, "consume", "evaluate", "s.h5", option, name],
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: {name}: process {os.getpid()} on ")


# The last step.


def test_a_name_that_is_taken_at_the_end_loses_nothing(inside, capsys, monkeypatch):
    from atom_plugin.cli import distill

    def meanwhile(*arguments, **options):
        Path("late.h5").write_text("theirs")
        return write_set(*arguments, **options)

    write_set = distill.write_set
    with monkeypatch.context() as patch:
        patch.setattr(distill, "write_set", meanwhile)
        assert main([*DISTILL, "-o", "late.h5"]) == 1
    assert "late.h5: already exists and is kept" in (error := capsys.readouterr().err)
    assert "the finished set is kept in late-2.h5" in error
    assert Path("late.h5").read_text() == "theirs"
    kept = Path("late-2.h5").read_bytes()
    run(capsys, *DISTILL, "-o", "late-2.h5", "--resume")  # is finished, and says so
    run(capsys, *DISTILL, "-o", "other.h5", "--resume")
    assert kept == Path("late-2.h5").read_bytes() == Path("other.h5").read_bytes()


def full_disk(folder: Path, *arguments: str) -> str:
    """Stderr of a command whose ``folder`` is a file system of 32 KiB."""
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("cannot make a small file system here")
    process = start(*arguments, cwd=folder)
    _, error = process.communicate(timeout=120)
    assert (process.returncode, error.count("\n")) == (1, 1), error
    return error


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    yield folder
    subprocess.run(["umount", str(folder)], capture_output=True, check=False)


def run_suggested(error: str, folder: Path) -> None:
    """What the message says to run, word for word."""
    (command,) = re.findall(r"run  (mv .*?)(?:  and|$)", error.strip())
    subprocess.run(["sh", "-c", command], cwd=folder, check=True)
    Path(shlex.split(command)[-2]).parent.rmdir()


def test_a_full_disk_at_the_end_loses_nothing(small_disk, capsys, monkeypatch):
    (small_disk.parent / "whole").mkdir()
    monkeypatch.chdir(small_disk.parent / "whole")
    run(capsys, *DISTILL, "--ipc", "12", "-o", "x.h5")
    error = full_disk(small_disk, *DISTILL, "--ipc", "12", "-o", "x.h5")
    assert "no space" in error
    assert "the finished set is kept in /" in error
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    run_suggested(error, small_disk)
    assert (small_disk / "x.h5").read_bytes() == Path("x.h5").read_bytes()
    assert sorted(path.name for path in small_disk.iterdir()) == ["x.h5", "x.log.jsonl"]


def test_a_full_disk_on_the_way_keeps_the_state(small_disk, capsys, monkeypatch):
    """The checkpoint of step 2 does not fit; after the move, --resume goes on to the same bytes."""
    every = ("--ipc", "12", "--checkpoint-every", "2", "-o", "x.h5")
    (small_disk.parent / "whole").mkdir()
    monkeypatch.chdir(small_disk.parent / "whole")
    run(capsys, *DISTILL, *every)
    error = full_disk(small_disk, *DISTILL, *every)
    assert "the state after iteration 2 is kept in /" in error
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    run_suggested(error, small_disk)
    process = start(*DISTILL, *every, "--resume", cwd=small_disk)
    assert process.communicate(timeout=120)[1] == ""
    assert (small_disk / "x.h5").read_bytes() == Path("x.h5").read_bytes()
    assert len(read_log(small_disk / "x.log.jsonl")) == 4


# Names.


def test_seeds_have_files_of_their_own(inside, capsys):
    for seed in ("0", "1"):
        run(capsys, *DISTILL, "--seed", seed)
        run(capsys, "select", "--ipc", "1", "--precision", "float32", "--seed", seed, "-q")
    names = {f"digits-{kind}-ipc1{seed}.h5" for kind in ("atom", "random") for seed in ("", "-seed1")}
    assert {path.name for path in inside.glob("*.h5")} == names


def test_home_is_expanded_and_suggestions_are_quoted(inside, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(inside))
    out = run(capsys, "select", "--ipc", "1", "--precision", "float32", "-q", "--output=~/out pút.h5")
    commands = [line.split(": ", 1)[1] for line in out.splitlines()[1:]]
    assert [shlex.split(command)[-1] for command in commands] == [str(inside / "out pút.h5")] * 2
    run(capsys, "store", "show", "~/out pút.h5", "-o", "~/a.png")
    assert (inside / "a.png").exists()


def test_exports_of_two_at_once_end_with_one_of_them(inside):
    make_set(classes=30, ipc=10, shape=(3, 32, 32)).save("s.h5")
    both = [start("store", "export", "s.h5", "--format", "folder", "-o", "out", cwd=inside) for _ in range(2)]
    ended = [(process.communicate(timeout=120)[1], process.returncode) for process in both]
    assert sorted(code for _, code in ended) == [0, 1]
    assert any(
        "out: was made by another process meanwhile" in error or "out: already exists" in error for error, _ in ended
    )
    assert SyntheticSet.load("s.h5").ipc == 10
    assert len(list(Path("out").glob("*/*.png"))) == 300


@pytest.mark.parametrize("format", ["folder", "huggingface"])
def test_an_export_that_lacks_images_is_no_smaller_set(inside, capsys, format):
    make_set(shape=(3, 8, 8), class_names=("cat", "dog", "owl")).save("s.h5")
    assert main(["store", "export", "s.h5", "--format", format, "-o", "out"]) == 0
    root = Path("out") if format == "folder" else Path("out/train")
    (root / "dog" / "00001.png").unlink()
    read = ("store", "import", "out", "--format", format, "-o", "back.h5")
    assert "dog/00001.png" in refused(capsys, 1, "the export is incomplete", *read)
    (root / "dog" / "00000.png").rename(root / "dog" / "00001.png")
    assert "dog/00000.png" in refused(capsys, 1, "the export is incomplete", *read)
    if format == "huggingface":
        lines = (root / "metadata.jsonl").read_text().splitlines()
        (root / "metadata.jsonl").write_text("".join(f"{line}\n" for line in lines if "dog/00000" not in line))
        assert "2 lines of 'dog' in metadata.jsonl" in refused(capsys, 1, "the export is incomplete", *read)
        assert json.loads(lines[0])["label"] == 0


@pytest.mark.parametrize(
    ("words", "right"),
    [
        (("distill", "--ipc", "1", "-o", "a.npz"), "a.h5"),
        (("select", "--ipc", "1", "-o", "a.txt.pt"), "a.txt.h5"),
        (("store", "merge", "a.h5", "b.h5", "-o", "c.npz"), "c.h5"),
        (("store", "subset", "a.h5", "--ipc", "1", "-o", "c.json"), "c.h5"),
        (("store", "import", "a.npz", "--format", "npz", "-o", "c.csv"), "c.h5"),
        (("pool", "make", "-o", "p.safetensors"), "p.pool"),
        (("report", "a.h5", "-o", "a.pdf"), "a.html"),
        (("consume", "train", "a.h5", "-o", "a.pt"), "a.safetensors"),
        (("consume", "train", "a.h5", "-o", "a.safetensors", "--onnx", "b.h5"), "b.onnx"),
        (("consume", "evaluate", "a.h5", "--csv", "a.json"), "a.csv"),
        (("consume", "evaluate", "a.h5", "--results", "a.csv"), "a.jsonl"),
        (("consume", "predict", "a.safetensors", "a.png", "--csv", "a.h5"), "a.csv"),
        (("consume", "audit", "a.h5", "--scores", "a.png"), "a.csv"),
    ],
)
def test_a_name_that_promises_another_kind_of_file_is_refused_before_any_work(inside, capsys, words, right):
    assert main([*words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert f"name it {right}" in err
    assert list(Path().iterdir()) == []

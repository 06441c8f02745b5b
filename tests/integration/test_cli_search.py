"""`consume search` through the command: tables, files, failures, and going on after a kill."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from groups import in_processes
from PIL import Image
from small import small_selection
from synthetic_sets import make_set

from atom_plugin.cli.main import main
from atom_plugin.datasets import SourceRequest, load_source
from atom_plugin.distillation.selected_set import selected_set

START = "import sys; from atom_plugin.cli.main import main; sys.exit(main())"
SPACE = "[convnet]\ndepth = [1, 2, 4]\nwidth = [4, 8]\nnormalisation = 'batch'\n"
QUICK = ("--epochs", "2", "--reference", "full:1", "--quiet", "--device", "cpu", "--precision", "float32")
TIMES = {"seconds"}


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    data = load_source("digits", SourceRequest(validation=0.1))
    for ipc in (1, 2):
        selected_set(small_selection(ipc=ipc, method="k-center"), data).save(folder / f"{ipc}.h5")
    (folder / "small.toml").write_text(SPACE)
    return folder


@pytest.fixture
def inside(tmp_path, sets, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in sets.iterdir():
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


def search(capsys, *args, code=0):
    assert main(["consume", "search", *map(str, args)]) == code
    return capsys.readouterr()


def timeless(value):
    """Plain JSON without what differs between two runs of one search."""
    if isinstance(value, dict):
        return {name: timeless(each) for name, each in value.items() if name not in TIMES}
    return [timeless(each) for each in value] if isinstance(value, list) else value


def test_a_search_prints_tables_and_writes_its_files(inside, capsys):
    files = ("--results", "r.jsonl", "--csv", "r.csv", "--chart", "r.png")
    out, err = search(capsys, "1.h5", "2.h5", "--space", "small.toml", *QUICK, *files)
    assert err == ""
    assert "space: small, 6 candidates\n" in out
    assert "images: digits, 1,294 for training, 144 for validation\n" in out
    assert "reference: every candidate on 1,294 images for 1 epochs" in out
    for name in ("1.h5", "2.h5", "random IPC 1", "herding IPC 2", "early-stopping IPC 1"):
        assert sum(line.startswith(f"| {name} ") for line in out.splitlines()) == 2, name
    assert out.count("unfit: depth=4") == 2
    rows = list(csv.DictReader(Path("r.csv").read_text().splitlines()))
    assert len(rows) == 6
    assert [bool(row["unfit"]) for row in rows] == [False] * 4 + [True] * 2
    assert all(0 <= float(row["herding IPC 1 accuracy"]) <= 1 for row in rows[:4])
    with Image.open("r.png") as picture:
        assert picture.format == "PNG"
    lines = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    best = {row["candidate"] for row in rows if row["test accuracy"]}
    assert len(lines) == 4 * 9 + len(best), "8 proxies and the reference, and who was found, on everything"
    assert {line["model"] for line in lines} == {"convnet"}


def test_a_second_search_takes_all_from_the_file_and_a_larger_one_adds_to_it(inside, capsys, monkeypatch):
    import atom_plugin.evaluation.running as running

    how = ("1.h5", "--space", "small.toml", "--pick", "depth=1|2", "--proxy", "random", *QUICK, "--json")
    small = (*how, "--sample", "2", "--results", "r.jsonl")
    first = search(capsys, *small).out
    count = Path("r.jsonl").read_bytes().count(b"\n")
    trained, plain = [], running.train
    monkeypatch.setattr(running, "train", lambda *a, **k: trained.append(a) or plain(*a, **k))
    again = search(capsys, *small).out
    assert json.loads(again)["candidates"][0]["scores"]["1.h5"]["seconds"] > 0
    assert timeless(json.loads(again)) == timeless(json.loads(first))
    assert trained == []
    assert Path("r.jsonl").read_bytes().count(b"\n") == count
    search(capsys, *how, "--results", "r.jsonl")
    assert len(trained) == 2 * 2, "two more candidates on a set and on random images"


def test_halving_and_the_best_alone_on_everything(inside, capsys):
    how = ("--space", "small.toml", "--proxy", "none", "--reference", "best:1", "--epochs", "9", "--halving", "--json")
    found = json.loads(search(capsys, "1.h5", *QUICK, *how).out)
    assert found["halving"] == {"epochs": 4 * 1 + 2 * 3 + 9, "full_epochs": 36}
    epochs = [row["scores"]["1.h5"]["epochs"] for row in found["candidates"] if not row["unfit"]]
    assert epochs == [9, 3, 1, 1]
    (proxy,) = found["proxies"]
    assert proxy["best"] == found["candidates"][0]["candidate"]
    assert 0 < proxy["best_test"] <= 1
    assert [row["test"] is None for row in found["candidates"]] == [False] + [True] * 5


def test_the_last_training_can_be_left_out(inside, capsys):
    found = json.loads(search(capsys, "1.h5", "--space", "small.toml", *QUICK, "--no-test-best", "--json").out)
    assert all(row["test"] is None for row in found["candidates"])
    assert any("reference" in row["scores"] for row in found["candidates"])


def test_a_model_that_cannot_take_the_images_or_be_trained_is_a_row(inside, capsys):
    (inside / "models.toml").write_text('models = ["timm:inception_v4", "alexnet"]\n[convnet]\ndepth = 1\nwidth = 4\n')
    how = ("--space", "models.toml", "--proxy", "none", "--lr", "1e30", "--json")
    out, err = search(capsys, "1.h5", *QUICK, *how, code=1)
    rows = {row["candidate"]: row for row in json.loads(out)["candidates"]}
    assert "timm:inception_v4 cannot take 1x8x8 images" in rows["timm:inception_v4"]["unfit"]
    assert "ended with a loss of nan; lower --lr" in rows["depth=1,width=4"]["scores"]["1.h5"]["error"]
    assert rows["depth=1,width=4"]["scores"]["reference"]["error"] is None, "that has a rate of its own"
    assert err == "", "told once, with the results"


def test_sets_that_were_made_from_the_validation_images_are_told(inside, capsys):
    selected_set(small_selection(ipc=1), load_source("digits", SourceRequest())).save("seen.h5")
    how = ("--space", "small.toml", "--pick", "depth=1,width=4", "--proxy", "none", "--validation", "100")
    out, _ = search(capsys, "seen.h5", *how, *QUICK)
    assert "images: digits, 1,338 for training, 100 for validation, which the sets were made from too\n" in out


def test_a_dry_run_says_how_much_and_how_long_and_trains_nothing(inside, capsys):
    out, err = search(capsys, "1.h5", "--space", "small.toml", *QUICK, "--dry-run", "--results", "r.jsonl")
    assert err == ""
    assert out.startswith("4 candidates, 20 networks, 0 finished; predicted time: ")
    assert Path("r.jsonl").read_bytes() == b""


def test_the_time_is_predicted_before_a_search(inside, capsys):
    loud = [each for each in QUICK if each != "--quiet"]
    _, err = search(capsys, "1.h5", "--space", "small.toml", "--proxy", "none", *loud)
    assert err.startswith("reading digits\n4 candidates, 8 networks, 0 finished; predicted time: ")


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("--space", "convnet-7"), 2, "no search space is called 'convnet-7'"),
        (("--space", "none.toml"), 2, "none.toml: cannot be read"),
        (("--pick", "depht=1"), 2, "did you mean 'depth'"),
        (("--sample", "721"), 2, "a sample of 721 was asked for, but convnet-720 has 720"),
        (("--sample", "0"), 2, "--sample must be at least 1, not 0"),
        (("--proxy", "herdng"), 2, "did you mean 'herding'"),
        (("--proxy", "random,,herding"), 2, "--proxy must be names joined by commas"),
        (("--reference", "full"), 2, "--reference must be full:EPOCHS, best:EPOCHS or none, not 'full'"),
        (("--reference", "full:0"), 2, "--reference must be at least 1, not 0"),
        (("--reference", "none", "--reference-ipc", "3"), 2, "--reference-ipc has no effect without a --reference"),
        (("--reference", "best:1", "--no-test-best"), 2, "has no effect without --reference full:EPOCHS"),
        (("--reference", "best:1", "--chart", "c.png"), 2, "--chart has no effect without --reference full"),
        (("--validation", "0.2"), 2, "1.h5: was made without its own validation images; leave --validation out"),
        (("seen.h5",), 2, "seen.h5: was made from all training images"),
        (("--chart", "1.h5"), 2, "1.h5: --chart is the name of 1.h5"),
        (("--results", "nowhere/r.jsonl"), 1, "there is no folder nowhere"),
        (("copy.h5",), 2, "1.h5 and copy.h5 have the same images"),
        (("gray.h5", "--dataset", "digits"), 2, "gray.h5: has images of 1x4x4"),
    ],
)
def test_bad_input_is_one_line_before_any_training(inside, capsys, monkeypatch, args, code, words):
    import atom_plugin.evaluation.running as running

    (inside / "copy.h5").write_bytes((inside / "1.h5").read_bytes())
    make_set(shape=(1, 4, 4)).save("gray.h5")
    if "seen.h5" in args:
        selected_set(small_selection(ipc=1), load_source("digits", SourceRequest())).save("seen.h5")
    monkeypatch.setattr(running, "train", lambda *a, **k: pytest.fail("trained"))
    plain = [] if "--reference" in args else ["--reference", "full:1"]
    small = [] if {"--space", "--pick", "--sample"} & set(args) else ["--space", "small.toml"]
    out, err = search(capsys, "1.h5", *small, *plain, "--quiet", "--precision", "float32", *args, code=code)
    assert (out, err.count("\n")) == ("", 1)
    assert words in err


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_a_search_killed_at_random_moments_gives_the_same_table(inside, capsys, kills):
    how = ("1.h5", "--space", "small.toml", *QUICK, "--epochs", "20", "--json")
    undisturbed = search(capsys, *how).out
    command = [sys.executable, "-c", START, "consume", "search", *how, "--results", "r.jsonl"]
    draw, held = random.Random(0), 0
    for _ in range(kills):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        wanted = held + draw.randint(0, 3)  # networks, and then a moment within the next one
        while process.poll() is None and _lines("r.jsonl") < wanted:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert _lines("r.jsonl") >= held
        held = _lines("r.jsonl")
    again = search(capsys, *how, "--results", "r.jsonl").out
    assert timeless(json.loads(again)) == timeless(json.loads(undisturbed))


def _lines(name: str) -> int:
    path = Path(name)
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _searched(folder: Path, *more: str) -> tuple[int, str]:
    from contextlib import redirect_stderr, redirect_stdout
    from io import StringIO

    os.chdir(folder)
    how = ["1.h5", "--space", "small.toml", "--proxy", "random", *QUICK, "--json"]
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()):
        code = main(["consume", "search", *how, *more])
    return code, out.getvalue()


@pytest.mark.skipif(os.name != "posix", reason="processes as POSIX has them")
def test_two_processes_share_a_search(inside):
    code, expected = _searched(inside)
    assert code == 0
    (first, out), (second, nothing) = in_processes(2, _searched, inside, "--results", "r.jsonl")
    assert (first, second, nothing) == (0, 0, "")
    assert timeless(json.loads(out)) == timeless(json.loads(expected))

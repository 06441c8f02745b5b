"""`consume audit` through the command: tables, files, the same again, and wrong input."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from commands import run
from PIL import Image
from small import small_config, small_selection
from synthetic_sets import make_set

from atom_plugin.cli.main import main
from atom_plugin.datasets import SourceRequest, load_source
from atom_plugin.distillation.loop import distill
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.store.synthetic_set import SyntheticSet

QUICK = ("--epochs", "2", "--networks", "2", "--images", "200", "--quiet", "--device", "cpu", "--precision", "float32")


def digits(**choices):
    return load_source("digits", SourceRequest(**choices))


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    half = digits(validation=0.5)
    for name, method in (("herding.h5", "herding"), ("random.h5", "random")):
        selected_set(small_selection(ipc=2, method=method), half, device="cpu").save(folder / name)
    distill(small_config(image_init="random"), half, device="cpu").save(folder / "atom.h5")
    selected_set(small_selection(ipc=2), digits(), device="cpu").save(folder / "whole.h5")
    selected_set(small_selection(ipc=30), digits(), device="cpu").save(folder / "many.h5")
    for seed in (1, 2, 3):
        other = digits(validation=0.5, seed=seed)
        selected_set(small_selection(ipc=2), other, device="cpu").save(folder / f"shadow{seed}.h5")
    make_set(classes=10, shape=(1, 8, 8), source={}).save(folder / "nowhere.h5")
    return folder


@pytest.fixture
def inside(tmp_path, sets, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in sets.iterdir():
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


def refused(capsys, *arguments, code=2) -> str:
    assert main(["consume", "audit", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == "" and "internal error" not in err and "Traceback" not in err
    line = err.splitlines()[-1]
    assert line.startswith("Error: ")
    return line


def test_a_table_of_attacks_and_one_of_copies(inside, capsys):
    table = run(capsys, "consume", "audit", "atom.h5", "herding.h5", *QUICK)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    attacks = [tuple(row[:3]) for row in rows if len(row) == 7][1:]
    every = ("loss", "lira", "distance")
    assert attacks == [
        *(("atom.h5", group, attack) for group in ("all 200", "start 20") for attack in every),
        *(("herding.h5", group, attack) for group in ("all 200", "own 20") for attack in every),
        *(("random IPC 2", group, attack) for group in ("all 200", "own 20") for attack in every),
        *(("control: no member seen", "all 200", attack) for attack in ("loss", "distance")),
    ]
    copies = {row[0]: row[1] for row in rows if len(row) == 5}
    assert copies["herding.h5"] == copies["random IPC 2"] == "20 of 20"


def test_files_say_what_the_table_says_and_come_again_to_the_byte(inside, capsys):
    files = ("--csv", "a.csv", "--scores", "scores.csv", "--picture", "pairs.png")
    told = json.loads(run(capsys, "consume", "audit", "random.h5", *QUICK, *files, "--json"))
    before = {name: Path(name).read_bytes() for name in files[1::2]}
    rows = list(csv.DictReader(before["a.csv"].decode().splitlines()))
    assert [float(row["auc"]) for row in rows] == [each["auc"]["value"] for each in told["sets"][0]["attacks"]]
    assert len(told["sets"]) == 1  # which is its own baseline
    scores = list(csv.DictReader(before["scores.csv"].decode().splitlines()))
    assert sum(int(row["own"]) for row in scores) == 20
    with Image.open("pairs.png") as picture:
        assert picture.width > 10 * 64
    assert refused(capsys, "random.h5", *QUICK, "--csv", "a.csv", code=1).count("--force") == 1
    again = json.loads(run(capsys, "consume", "audit", "random.h5", *QUICK, *files, "--json", "--force"))
    assert again == told
    assert before == {name: Path(name).read_bytes() for name in files[1::2]}


def test_another_seed_asks_about_other_images(inside, capsys):
    once, other = (
        json.loads(run(capsys, "consume", "audit", "atom.h5", *QUICK, "--no-baseline", "--json", "--seed", seed))
        for seed in ("0", "1")
    )
    assert [each["set"] for each in once["sets"]] == ["atom.h5"]
    assert once["sets"][0]["attacks"] != other["sets"][0]["attacks"]


def test_shadow_sets_of_ones_own(inside, capsys):
    given = [word for seed in (1, 2, 3) for word in ("--shadow", f"shadow{seed}.h5")]
    told = json.loads(run(capsys, "consume", "audit", "atom.h5", *QUICK, *given, "--json"))
    assert told["sets"][0]["shadow_networks"] == 3 and told["control"] == {}
    # Of 200 images on either side about a half were seen by two of three sets or more.
    assert 60 < told["sets"][0]["attacks"][0]["members"] < 140


def test_a_set_of_all_training_images_is_judged_on_the_test_images(inside, capsys):
    told = json.loads(run(capsys, "consume", "audit", "whole.h5", *QUICK, "--json"))
    assert told["sets"][0]["non_members_are"] == "test"
    assert told["sets"][0]["attacks"][0]["non_members"] == told["sets"][0]["attacks"][0]["members"]


WRONG = [
    (("absent.h5",), 1, "absent.h5"),
    (("atom.h5", "whole.h5"), 2, "whole.h5: was made from other images"),
    (("atom.h5", "--dataset", "digits"), 2, "atom.h5: was made from other images"),
    (("nowhere.h5",), 1, "--dataset"),
    (("many.h5",), 1, "--shadow"),
    (("atom.h5", "--shadow", "herding.h5"), 2, "--shadow"),
    (("atom.h5", "--networks", "1"), 2, "--networks must be at least 2, not 1"),
    (("atom.h5", "--images", "0"), 2, "--images must be at least 1, not 0"),
    (("atom.h5", "--force"), 2, "--force"),
    (("atom.h5", "--picture", "pairs.txt"), 2, "pairs.txt"),
    (("atom.h5", "--scores", "atom.h5"), 2, "atom.h5"),
    (("atom.h5", "--shadow", "s.h5", "--csv", "s.h5"), 2, "s.h5"),
    (
        ("atom.h5", "--csv", "a.csv", "--scores", "a.csv"),
        2,
        "--csv a.csv and --scores a.csv are the same file; give different names",
    ),
    (("part.h5",), 2, "class"),
]


@pytest.mark.parametrize(("arguments", "code", "part"), WRONG, ids=[" ".join(each[0]) for each in WRONG])
def test_wrong_input_is_a_line(inside, capsys, arguments, code, part):
    SyntheticSet.load("atom.h5").subset([0, 1]).save("part.h5")
    assert part in refused(capsys, *QUICK, *arguments, code=code)

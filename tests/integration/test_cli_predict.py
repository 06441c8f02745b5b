"""A network trained by one command and used by another: what is printed, in every form, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from commands import run
from PIL import Image

from atom_plugin.cli.main import main
from atom_plugin.datasets import SourceRequest, load_source

QUICK = ("--epochs", "40", "--device", "cpu", "--precision", "float32", "--quiet")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the test images of digits as files, a set, and a network that it trained."""
    folder = tmp_path_factory.mktemp("made")
    data = load_source("digits", SourceRequest())
    for number, (image, label) in enumerate(zip(data.test.images[:40], data.test.labels.tolist(), strict=False)):
        place = folder / "images" / data.class_names[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(place / f"{number:02}.png")
    assert main(["select", "--ipc", "5", "--quiet", "--precision", "float32", "-o", str(folder / "set.h5")]) == 0
    assert main(["consume", "train", str(folder / "set.h5"), *QUICK, "-o", str(folder / "net.safetensors")]) == 0
    return folder


@pytest.fixture
def inside(inside: Path, made: Path) -> Path:
    for file in made.iterdir():
        (inside / file.name).symlink_to(file)
    return inside


def failed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 1) -> str:
    """The one line on stderr of a command that fails so."""
    assert main(list(arguments)) == code
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1, (out, err)
    return err


def test_predictions_agree_with_the_evaluation(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(
        run(capsys, "consume", "predict", "net.safetensors", "images", "--json", "--quiet", "--top", "3")
    )
    assert [each["file"] for each in found] == sorted(map(str, Path("images").rglob("*.png")))
    assert all(len(each["classes"]) == 3 for each in found)
    assert all(each["classes"][0]["probability"] == each["probability"] for each in found)
    right = [each["class"] == Path(each["file"]).parent.name for each in found]
    evaluated = json.loads(run(capsys, "consume", "evaluate", "set.h5", *QUICK, "--repeats", "1", "--json"))
    assert np.mean(right) == pytest.approx(evaluated[0]["mean"], abs=0.15) and np.mean(right) > 0.6


def test_a_table_and_csv(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(map(str, Path("images").rglob("*.png")))[:2]
    table = run(capsys, "consume", "predict", "net.safetensors", *files, "--top", "2", "--quiet", "--csv", "p.csv")
    assert all(file in table for file in files) and "probability 2" in table
    with (inside / "p.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    assert [(row["file"], row["rank"]) for row in rows] == [(file, rank) for file in files for rank in "12"]
    assert all(0 <= float(row["probability"]) <= 1 and row["error"] == "" for row in rows)
    assert "already exists" in failed(capsys, "consume", "predict", "net.safetensors", *files, "--csv", "p.csv")


def test_images_that_cannot_be_used_are_told_and_the_others_go_on(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = next(Path("images").rglob("*.png"))
    Image.new("RGB", (30, 20), "red").save("colour.png")
    Path("text.png").write_text("no image")
    arguments = ["consume", "predict", "net.safetensors", str(good), "colour.png", "text.png", "--quiet"]
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert str(good) in out and "colour.png" not in out
    colour, text = err.splitlines()
    assert colour.startswith("colour.png: found an image of 3 channels (colour), expected 1 channel (grey)")
    assert text.startswith("text.png: ") and "no image" in text
    assert main([*arguments, "--json", "--csv", "p.csv"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [("error" in each) for each in found] == [False, True, True]
    assert [row.rpartition(",")[2] != "" for row in Path("p.csv").read_text().splitlines()[1:]] == [False, True, True]


def test_many_failures_are_counted(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(8):
        Path(f"{number}.png").write_text("")
    assert main(["consume", "predict", "net.safetensors", *(f"{number}.png" for number in range(8)), "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 6 and "and 3 more of 8 images" in err


@pytest.mark.parametrize(
    ("model", "images", "told"),
    [
        ("set.h5", "images", "is a set, expected a network"),
        ("nothing", "images", "there is no such file"),
        ("net.safetensors", "nowhere", "there is no such file or folder"),
        ("net.safetensors", "empty", "contains no image files"),
    ],
)
def test_what_is_none_is_refused_in_one_line(
    inside: Path, capsys: pytest.CaptureFixture[str], model: str, images: str, told: str
) -> None:
    (inside / "empty").mkdir()
    assert told in failed(capsys, "consume", "predict", model, images, "--quiet")


def test_training_says_what_to_do_next_and_keeps_what_is_there(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("consume", "train", "set.h5", "--epochs", "1", "--precision", "float32", "--quiet")
    told = run(capsys, *words, "-o", "new.safetensors")
    assert "convnet, 1 epochs on 50 images of 10 classes" in told
    assert "atom-cli consume predict new.safetensors IMAGES" in told
    assert "already exists" in failed(capsys, *words, "-o", "new.safetensors")
    assert "same file" in failed(capsys, *words, "-o", "x", "--onnx", "x", code=2)
    before = (inside / "new.safetensors").read_bytes()
    run(capsys, *words, "-o", "new.safetensors", "--force")
    assert (inside / "new.safetensors").read_bytes() == before


def test_a_link_to_a_folder_and_the_folder_itself(
    inside: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(inside / "images")
    found = json.loads(run(capsys, "consume", "predict", "../net.safetensors", ".", "--json", "--quiet"))
    assert len(found) == 40 and all(Path(each["file"]).is_file() for each in found)

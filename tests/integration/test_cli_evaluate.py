"""`consume evaluate` through the command: tables, files, failures, and going on after a kill."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import small_selection
from synthetic_sets import make_set

from atom_plugin.cli.main import main
from atom_plugin.datasets import SourceRequest, load_source
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.errors import ModelError
from atom_plugin.evaluation import NamedModel, NetworkResultsFile, Outcome, network_of
from atom_plugin.evaluation.training import TrainConfig, accuracy, train
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.store.synthetic_set import SyntheticSet

START = "import sys; from atom_plugin.cli.main import main; sys.exit(main())"
QUICK = ("--epochs", "1", "--repeats", "2", "--quiet", "--device", "cpu", "--precision", "float32")


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    """Three small sets of digits; two differ in their seed alone."""
    folder = tmp_path_factory.mktemp("sets")
    data = load_source("digits", SourceRequest())
    for name, options in {"a": {"seed": 0}, "b": {"seed": 1}, "wide": {"network": {"width": 12}}}.items():
        selected_set(small_selection(ipc=1, **options), data).save(folder / f"{name}.h5")
    return folder


@pytest.fixture
def inside(tmp_path, sets, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in sets.iterdir():
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


def evaluate(capsys, *args, code=0):
    """Standard output and error of an evaluation that ends with ``code``."""
    assert main(["consume", "evaluate", *map(str, args)]) == code
    return capsys.readouterr()


def test_several_sets_and_files_of_results(inside, capsys):
    files = ("--results", "r.jsonl", "--csv", "r.csv", "--chart", "r.png")
    out, err = evaluate(capsys, "a.h5", "b.h5", "wide.h5", *QUICK, *files, "--full", "--full-epochs", "1")
    assert err == ""
    assert "recipe standard, epochs 1, batch 256" in out
    expected = {"a.h5": [2], "b.h5": [2], "wide.h5": [2], "digits, all images": [1, 1], "random IPC 1, 2 sets": [4]}
    for name, counts in expected.items():
        rows = [line for line in out.splitlines() if f"| {name} " in line]
        assert [int(row.split("|")[-3]) for row in rows] == counts
    assert "convnet (depth 2, width 12)" in out
    lines = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert len(lines) == 8, "2 of each set, and 1 on all images for each of two networks"
    assert [row["n"] for row in csv.DictReader(Path("r.csv").read_text().splitlines())] == [
        "2",
        "2",
        "2",
        "1",
        "1",
        "4",
    ]
    assert Path("r.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def held_out(inside):
    """Two sets that leave one validation part out, one with another part, and one without any."""
    parts = {"v": (0.2, 0), "w": (0.2, 0), "other": (0.2, 1), "whole": (None, 0)}
    for number, (name, (validation, seed)) in enumerate(parts.items()):
        data = load_source("digits", SourceRequest(validation=validation, seed=seed if validation else None))
        selected_set(small_selection(ipc=1, seed=number), data).save(f"{name}.h5")
    return inside


def test_accuracy_is_measured_on_the_images_that_the_sets_were_made_without(held_out, capsys):
    data = load_source("digits", SourceRequest(validation=0.2))
    for on, images in (("validation", data.validation), ("test", data.test)):
        files = (
            "--results",
            f"{on}.jsonl",
            "--csv",
            f"{on}.csv",
            "--chart",
            f"{on}.png",
            "--full",
            "--full-epochs",
            "1",
        )
        out, _ = evaluate(capsys, "v.h5", "w.h5", *QUICK, "--on", on, *files)
        assert f"measured on {len(images)} {on} images" in out
        assert f"{on.capitalize()} accuracy after the last epoch" in out
        (table,) = [list(csv.DictReader(Path(f"{on}.csv").read_text().splitlines()))]
        assert {row["measured on"] for row in table} == {f"{len(images)} {on} images"}
        assert [row["images"] for row in table if row["method"] == "full"] == [str(len(data.train))]
        assert table[2]["set"] == "digits, all but validation images"
        assert {json.loads(line)["on"] for line in Path(f"{on}.jsonl").read_text().splitlines()} == {on}
    network = train(SyntheticSet.load("v.h5"), network_of(SyntheticSet.load("v.h5")), TrainConfig(epochs=1), seed=0)
    rows = json.loads(evaluate(capsys, "v.h5", *QUICK, "--on", "validation", "--json").out)
    assert (rows[0]["on"], rows[0]["test_images"]) == ("validation", len(data.validation))
    expected = accuracy(network, SyntheticSet.load("v.h5").preprocessing, data.validation, device=torch.device("cpu"))
    assert rows[0]["accuracies"][0] == expected


def test_one_results_file_tells_test_from_validation(held_out, capsys):
    both = (*QUICK, "--results", "r.jsonl", "--json")
    rows = [json.loads(evaluate(capsys, "v.h5", *both, "--on", on).out)[0] for on in ("test", "validation", "test")]
    assert rows[0] == rows[2] != rows[1]
    lines = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert [line["on"] for line in lines] == ["test"] * 2 + ["validation"] * 2
    # A file from before there was a choice holds test accuracies, and is gone on with.
    Path("r.jsonl").write_text("".join(json.dumps({k: v for k, v in x.items() if k != "on"}) + "\n" for x in lines[:2]))
    assert json.loads(evaluate(capsys, "v.h5", *both).out)[0] == rows[0]
    assert Path("r.jsonl").read_text().count("\n") == 2


@pytest.mark.parametrize(
    ("files", "options", "words"),
    [
        (
            ("v.h5", "whole.h5"),
            (),
            "whole.h5: was made from all training images of 'digits', without held-out images",
        ),
        (
            ("v.h5", "other.h5"),
            (),
            "v.h5 and other.h5 hold out different validation images (288 of 'digits' by seed 0; ",
        ),
        (("v.h5",), ("--dataset", "digits"), "leave --dataset out"),
    ],
)
def test_validation_images_that_are_not_there_or_not_the_same_are_refused(held_out, capsys, files, options, words):
    out, err = evaluate(capsys, *files, *QUICK, "--on", "validation", *options, code=2)
    assert (out, err.count("\n")) == ("", 1)
    assert words in err
    evaluate(capsys, *files, *QUICK, *options)  # on test they compare


def test_a_second_run_takes_all_from_the_file_and_trains_only_what_is_new(inside, capsys, monkeypatch):
    import atom_plugin.evaluation.running as running

    first = json.loads(evaluate(capsys, "a.h5", *QUICK, "--json", "--results", "r.jsonl").out)
    trained, plain = [], running.train
    monkeypatch.setattr(running, "train", lambda *a, **k: trained.append(k["seed"]) or plain(*a, **k))
    again = json.loads(evaluate(capsys, "a.h5", *QUICK, "--json", "--results", "r.jsonl").out)
    assert (again, trained) == (first, [])
    (more,) = json.loads(evaluate(capsys, "a.h5", *QUICK, "--repeats", "3", "--json", "--results", "r.jsonl").out)
    assert (more["accuracies"][:2], trained) == (first[0]["accuracies"], [2])
    assert Path("r.jsonl").read_text().count("\n") == 3


def test_a_model_that_fails_stands_in_the_results_and_the_others_go_on(inside, capsys, monkeypatch):
    def refuse(self, image_shape, classes, *, generator=None):
        raise ModelError(f"{self.name} cannot take 1x8x8 images")

    monkeypatch.setattr(NamedModel, "build", refuse)
    out, err = evaluate(capsys, "a.h5", *QUICK, "--models", "vit,convnet", "--json", "--results", "r.jsonl")
    assert err == ""
    failed, done = json.loads(out)
    assert (failed["model"], failed["error"], failed["mean"]) == ("vit", "vit cannot take 1x8x8 images", None)
    assert (done["model"], done["error"], done["n"]) == ("convnet", None, 2)
    assert Path("r.jsonl").read_text().count("\n") == 2, "what failed is tried again"
    out, err = evaluate(capsys, "a.h5", *QUICK, "--model", "vit", "--chart", "r.png", code=1)
    assert err == ""
    assert out.count("vit cannot take 1x8x8 images") == 1
    assert out.endswith("failed: vit on a.h5: vit cannot take 1x8x8 images\n")
    assert not Path("r.png").exists()


def test_models_as_they_are_train_on_a_set(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number in range(6):
        path = tmp_path / "tree" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    select = ("select", "--dataset", "folder", "--data-dir", "tree", "--cache-dir", "cache", "--ipc", "1", "--quiet")
    assert main([*select, "--precision", "float32", "-o", "a.h5"]) == 0
    capsys.readouterr()
    models = "resnet18,vit,timm:mobilenetv3_small_050"
    once = (
        "--epochs",
        "1",
        "--repeats",
        "1",
        "--quiet",
        "--device",
        "cpu",
        "--precision",
        "float32",
        "--models",
        models,
    )
    out, err = evaluate(capsys, "a.h5", *once, "--cache-dir", "cache", "--json")
    rows = json.loads(out)
    assert err == ""
    assert [(row["model"], row["n"], row["error"]) for row in rows] == [(name, 1, None) for name in models.split(",")]
    assert [row["mean"] in (0, 0.5, 1) for row in rows] == [True] * 3, "of two test images"


@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_a_model_that_fails_in_training_stands_in_the_results_and_the_others_go_on(inside, capsys, debug):
    # Ten images in batches of nine leave one, over which batch normalisation of a single place has no variance.
    args = ("a.h5", *QUICK, "--models", "timm:resnet10t,convnet", "--batch-size", "9", "--json")
    assert main([*debug, "consume", "evaluate", *args]) == 0
    out, err = capsys.readouterr()
    failed, done = json.loads(out)
    assert failed["error"].startswith(
        "timm:resnet10t cannot be trained and tested on 10 images of 1x8x8, 9 a batch (ValueError: Expected more than 1 "
    )
    assert (failed["mean"], done["n"], done["error"]) == (None, 2, None)
    assert ("Traceback" in err) == bool(debug)
    assert debug or err == ""


def test_augmentations_are_compared_row_by_row_from_one_results_file(inside, capsys):
    names = ("none", "siamese", "randaugment", "autoaugment")
    both = (*QUICK, "--results", "r.jsonl")
    (alone,) = json.loads(evaluate(capsys, "a.h5", *both, "--augmentation", "none", "--json").out)
    rows = json.loads(evaluate(capsys, "a.h5", *both, "--augmentation", ",".join(names), "--json").out)
    assert rows[0] == alone
    assert [row["training"]["augmentation"] for row in rows] == [
        "none",
        "color_crop_cutout_flip_scale_rotate",
        *names[2:],
    ]
    lines = Path("r.jsonl").read_bytes()
    assert lines.count(b"\n") == 8
    files = ("--csv", "r.csv", "--chart", "r.png", "--full", "--full-epochs", "1")
    out, err = evaluate(capsys, "a.h5", *both, "--augmentation", "siamese,none,randaugment,autoaugment", *files)
    assert err == ""
    assert Path("r.jsonl").read_bytes().startswith(lines)
    assert out.count("| digits, all images |") == 4
    assert [row["augmentation"] for row in csv.DictReader(Path("r.csv").read_text().splitlines())] == [
        *("siamese", "none", "randaugment", "autoaugment") * 2
    ]
    assert [line.split("|")[5].strip() for line in out.splitlines() if "| a.h5 " in line] == [
        *("siamese", "none", "randaugment", "autoaugment")
    ]
    out, err = evaluate(capsys, "a.h5", *both, "--augmentation", "none,flip", code=2)
    assert "r.jsonl: has networks trained with augmentation" in err
    assert "asks for none or flip" in err


def test_with_a_results_file_networks_train_one_at_a_time(inside, capsys, monkeypatch):
    import atom_plugin.evaluation as evaluation

    asked, plain = [], evaluation.run_jobs
    monkeypatch.setattr(evaluation, "run_jobs", lambda *a, **k: asked.append(k["at_once"]) or plain(*a, **k))
    evaluate(capsys, "a.h5", *QUICK)
    evaluate(capsys, "a.h5", *QUICK, "--results", "r.jsonl")
    assert asked == [None, 1]


def test_recipe_and_options_reach_the_training(inside, capsys):
    options = (
        "--training-recipe",
        "modern",
        "--lr",
        "0.002",
        "--augmentation",
        "autoaugment",
        "--normalisation",
        "batch",
    )
    (row,) = json.loads(evaluate(capsys, "a.h5", *QUICK, *options, "--json").out)
    training = row["training"]
    assert (training["recipe"], training["epochs"], training["lr"]) == ("modern", 1, 0.002)
    assert (training["optimizer"], training["augmentation"]) == ("adamw", "autoaugment")
    assert row["network"]["normalisation"] == "batch"


def test_what_two_sets_share_is_trained_once(inside, capsys, monkeypatch):
    monkeypatch.setattr(
        NamedModel, "build", lambda self, *args, generator: ConvNetConfig(width=8).build(*args, generator=generator)
    )
    out, _ = evaluate(capsys, "a.h5", "wide.h5", *QUICK, "--models", "convnet,vgg11", "--json", "--results", "r.jsonl")
    rows = json.loads(out)
    assert [(row["file"], row["model"], row["n"]) for row in rows] == [
        *(("a.h5", "convnet", 2), ("a.h5", "vgg11", 2), ("wide.h5", "convnet", 2), ("wide.h5", "vgg11", 2))
    ]
    assert rows[1]["accuracies"] == rows[3]["accuracies"]
    assert Path("r.jsonl").read_text().count("\n") == 6


def test_models_are_listed_by_a_pattern(capsys):
    assert main(["consume", "evaluate", "--list-models", "timm:mixer_b16*"]) == 0
    out = capsys.readouterr().out.split()
    assert out[:5] == ["convnet", "alexnet", "vgg11", "resnet18", "vit"]
    assert "timm:mixer_b16_224" in out


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("a.h5", "--models", "alexnett"), 2, "no model is called 'alexnett'; did you mean 'alexnet'"),
        (("a.h5", "--models", "timm:nothing"), 2, "is called 'nothing'; did you mean"),
        (("a.h5", "--models", "convnet,"), 2, "--models must be names joined by commas, not 'convnet,'"),
        (("a.h5", "--models", "convnet,convnet"), 2, "found the model 'convnet' twice"),
        (("a.h5", "--training-recipe", "modem"), 2, "no training recipe is called 'modem'; did you mean 'modern'"),
        (("a.h5", "--augmentation", "blur"), 2, "unknown augmentation 'blur'"),
        (("a.h5", "--augmentation", "none,blur"), 2, "unknown augmentation 'blur'"),
        (("a.h5", "--augmentation", "none,"), 2, "--augmentation must be names joined by commas, not 'none,'"),
        (("a.h5", "--augmentation", "none,none"), 2, "augmentation 'none' twice"),
        (("a.h5", "--repeats", "0"), 2, "--repeats must be at least 1, not 0"),
        (("a.h5", "--full-epochs", "3"), 2, "--full-epochs has no effect without --full"),
        (("a.h5", "copy.h5"), 2, "a.h5 and copy.h5 have the same images"),
        (("a.h5", "--results", "nowhere/r.jsonl"), 1, "there is no folder nowhere; create it first"),
        (("a.h5", "--results", "old.jsonl"), 1, "old.jsonl, line 1: is not JSON"),
        (("a.h5", "--results", "other.jsonl"), 2, "has networks trained with epochs 9, this evaluation asks for 1"),
        (("a.h5", "--chart", "r.gif"), 2, "r.gif: ends in '.gif', expected .png"),
        (("a.h5", "--chart", "nowhere/r.png"), 1, "there is no folder nowhere; create it first"),
        (("a.h5", "--csv", "old.csv"), 1, "old.csv: already exists and is kept"),
        (("a.h5", "--chart", "there.png"), 1, "there.png: already exists and is kept"),
        (("rgba.h5", "--dataset", "digits"), 2, "has images of 4x8x8"),
    ],
)
def test_bad_input_is_one_line_before_any_training(inside, capsys, monkeypatch, args, code, words):
    import atom_plugin.evaluation.running as running

    (inside / "copy.h5").write_bytes((inside / "a.h5").read_bytes())
    make_set(shape=(4, 8, 8)).save("rgba.h5")
    for name in ("old.jsonl", "old.csv"):
        Path(name).write_text("not ours")
    Path("there.png").touch()
    if "other.jsonl" in args:
        evaluate(capsys, "a.h5", *QUICK, "--results", "other.jsonl")
        text = Path("other.jsonl").read_text()
        Path("other.jsonl").write_text(text.replace('"epochs": 1', '"epochs": 9'))
    monkeypatch.setattr(running, "train", lambda *a, **k: pytest.fail("trained"))
    kept = (inside / "a.h5").read_bytes()
    out, err = evaluate(capsys, *args, *(QUICK if "--repeats" not in args else ()), code=code)
    assert (out, err.count("\n")) == ("", 1)
    assert words in err
    assert (inside / "a.h5").read_bytes() == kept


@pytest.mark.parametrize("written", [False, True])
def test_a_stop_beside_a_line_counts_what_the_file_holds(inside, capsys, monkeypatch, written):
    append = NetworkResultsFile.append

    def stopped(finished: NetworkResultsFile, outcome: Outcome) -> None:
        if len(finished) < 1 or written:
            append(finished, outcome)
        if outcome.job.repeat == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(NetworkResultsFile, "append", stopped)
    out, err = evaluate(capsys, "a.h5", *QUICK, "--repeats", "3", "--results", "r.jsonl", code=130)
    assert out == ""
    assert err.startswith(f"Stopped after {1 + written} of 3 networks; run the same command to continue")
    assert Path("r.jsonl").read_bytes().count(b"\n") == 1 + written


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_evaluation_goes_on_and_loses_at_most_the_network_under_way(inside, capsys, number):
    # More networks than it can train before the signal; fewer when it goes on.
    how = ("--epochs", "1", "--quiet", "--device", "cpu", "--precision", "float32")
    args = ("consume", "evaluate", "a.h5", *how, "--results", "r.jsonl")
    process = subprocess.Popen(
        [sys.executable, "-c", START, *args, "--repeats", "300"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    results = Path("r.jsonl")
    while not (results.exists() and results.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert out == ""
    done = results.read_bytes().count(b"\n")
    if number == signal.SIGTERM:
        assert process.returncode == 143
        assert err == (
            f"Stopped after {done} of 300 networks; run the same command to continue (results so far: r.jsonl)\n"
        )
    wanted = done + 2
    (row,) = json.loads(evaluate(capsys, *args[2:], "--repeats", wanted, "--json").out)
    (undisturbed,) = json.loads(evaluate(capsys, *args[2:-2], "--repeats", wanted, "--json").out)
    assert row == undisturbed
    assert results.read_bytes().count(b"\n") == wanted

"""Distil, store, look, train: the commands in the order of work, on the embedded digits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import run

from atom_plugin.cli.main import main
from atom_plugin.datasets import SourceRequest, load_source
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import to_uint8

QUICK = ("--width", "8", "--iterations", "4", "--real-batch", "4", "--quiet", "--precision", "float32")


def test_distil_look_train_and_compare_with_random(inside, capsys):
    out = run(capsys, "distill", "--ipc", 2, *QUICK, "--plot", "--preview-every", 2)
    assert "digits-atom-ipc2.h5: 20 images, 2 per class, atom, 4 steps" in out
    names = {path.name for path in inside.iterdir()}
    assert names == {
        "digits-atom-ipc2.h5",
        "digits-atom-ipc2.log.jsonl",
        "digits-atom-ipc2.loss.png",
        "digits-atom-ipc2.000002.png",
        "digits-atom-ipc2.000004.png",
    }
    records = [json.loads(line) for line in (inside / "digits-atom-ipc2.log.jsonl").read_text().splitlines()]
    assert [record["iteration"] for record in records] == [1, 2, 3, 4]
    assert all(record["loss"] > 0 and record["seconds"] > 0 for record in records)
    assert "OK" in run(capsys, "store", "verify", "digits-atom-ipc2.h5")
    run(capsys, "select", "--ipc", 2, "--quiet", "--precision", "float32")
    out = run(
        *(capsys, "consume", "evaluate", "digits-atom-ipc2.h5", "digits-random-ipc2.h5", "--json"),
        *("--epochs", 2, "--repeats", 2, "--quiet", "--precision", "float32"),
    )
    results = json.loads(out)
    assert [result["file"] for result in results] == ["digits-atom-ipc2.h5", "digits-random-ipc2.h5"]
    assert all(len(result["accuracies"]) == 2 and 0 <= result["mean"] <= 1 for result in results)


def test_what_validation_holds_out_is_left_out_remembered_and_kept_to(inside, capsys):
    held = ("--validation", "0.1", "--split-seed", "3")
    run(capsys, "distill", "--ipc", 1, *QUICK, *held, "--image-init", "herding", "-o", "a.h5")
    run(capsys, "select", "--ipc", 1, *held, "--quiet", "--precision", "float32", "-o", "b.h5")
    run(
        capsys,
        "select",
        "--ipc",
        1,
        *held,
        "--preprocessing-of",
        "a.h5",
        "--quiet",
        "--precision",
        "float32",
        "-o",
        "c.h5",
    )
    data = load_source("digits", SourceRequest(validation=0.1, seed=3))
    for name in "abc":
        source = SyntheticSet.load(f"{name}.h5").provenance.source
        assert source == {"name": "digits", "options": {"validation": 0.1, "seed": 3}, "fingerprint": data.fingerprint}
    kept = {image.numpy().tobytes() for image in data.train.images}
    chosen = to_uint8(SyntheticSet.load("b.h5").true_colour())
    assert {image.numpy().tobytes() for image in chosen} <= kept
    assert "without validation images (0.1)" in run(capsys, "store", "info", "a.h5")
    rows = json.loads(
        run(
            *(capsys, "consume", "evaluate", "a.h5", "b.h5", "--on", "validation", "--json"),
            *("--epochs", 1, "--repeats", 1, "--quiet", "--precision", "float32"),
        )
    )
    assert [(row["on"], row["test_images"]) for row in rows] == [("validation", 144)] * 2


@pytest.mark.parametrize("other", [(), ("--validation", "100"), ("--validation", "0.1", "--split-seed", "1")])
def test_a_run_is_gone_on_with_under_its_own_validation_part_alone(inside, capsys, other):
    assert main(["distill", "--ipc", "1", *QUICK, "--validation", "0.1", "-o", "a.h5"]) == 0
    assert main(["distill", "--ipc", "1", *QUICK, *other, "-o", "a.h5", "--resume"]) == 1
    assert "was made with another --validation or source of images" in capsys.readouterr().err
    run(capsys, "distill", "--ipc", 1, *QUICK, "--validation", "144", "-o", "a.h5", "--resume")  # the same images


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--validation", "0"), "--validation must be above 0, not 0"),
        (("--validation", "1.5"), "validation must be a fraction between 0 and 1 or a number of images, not 1.5"),
        (("--validation", "9"), "a validation part of 9 images does not suit 10 classes"),
        (
            ("--validation", "0.1", "--preprocessing-of", "a.h5"),
            "fitted on other training images than --validation leaves",
        ),
    ],
)
def test_a_validation_part_that_cannot_be_is_one_line(inside, capsys, options, words):
    run(capsys, "select", "--ipc", 1, "--quiet", "--precision", "float32", "-o", "a.h5")
    assert main(["select", "--ipc", "1", "--quiet", "--precision", "float32", *options, "-o", "b.h5"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and words in err
    assert not (inside / "b.h5").exists()


def test_json_is_all_there_is_on_stdout(inside, capsys):
    result = json.loads(run(capsys, "distill", "--ipc", 1, *QUICK, "--json", "-o", "a.h5"))
    assert result["file"] == "a.h5"
    assert result["images"] == 10
    assert SyntheticSet.load("a.h5").provenance.final_loss == result["final_loss"]


KINDS = [pytest.param(kind, marks=pytest.mark.auto_precision(kind)) for kind in ("float32", "bfloat16")]


@pytest.mark.parametrize("taken", KINDS)
@pytest.mark.parametrize("command", [("distill", *QUICK[:-2]), ("select", "--method", "herding", "--quiet")])
def test_what_a_command_prints_names_the_precision_that_auto_took(inside, capsys, command, taken):
    command = (*command, "--ipc", 1, "--device", "cpu")
    out = run(capsys, *command, "-o", "a.h5")
    assert f", precision {taken}, " in out.splitlines()[0]
    assert SyntheticSet.load("a.h5").provenance.config["precision"] == taken
    result = json.loads(run(capsys, *command, "-o", "b.h5", "--json"))
    assert result["precision"] == taken
    assert (inside / "a.h5").read_bytes() == (inside / "b.h5").read_bytes()


def test_a_precision_that_is_given_is_taken_and_an_evaluation_says_its_own(inside, capsys):
    out = run(capsys, "distill", "--ipc", 1, *QUICK, "--precision", "bfloat16", "-o", "a.h5")
    assert ", precision bfloat16, " in out.splitlines()[0]
    quick = ("--epochs", 1, "--repeats", 1, "--quiet", "--json")
    for precision in ("float32", "bfloat16"):
        (result,) = json.loads(run(capsys, "consume", "evaluate", "a.h5", *quick, "--precision", precision))
        assert result["precision"] == precision


def test_options_reach_the_set(inside, capsys):
    run(
        *(capsys, "distill", "--ipc", 1, *QUICK, "-o", "a.h5", "--p-s", 1, "--p-c", 8, "--task-balance", 0.5),
        *("--loss-scale", 2, "--image-lr", 0.5, "--image-momentum", 0.9, "--image-schedule", "cosine", "--zca"),
        *("--image-init", "noise", "--augmentation", "crop_flip", "--depth", 1, "--activation", "swish", "--seed", 3),
        *("--normalisation", "group", "--pooling", "max", "--pool-size", 3, "--weight-init", "normal"),
        *("--no-standardise", "--precision", "float32", "--device", "cpu"),
    )
    config = SyntheticSet.load("a.h5").provenance.config
    assert config["matcher_options"] == {"p_s": 1.0, "p_c": 8.0, "task_balance": 0.5, "loss_scale": 2.0}
    expected = {"image_lr": 0.5, "image_momentum": 0.9, "image_schedule": "cosine", "zca_eps": 0.1, "seed": 3}
    assert {key: config[key] for key in expected} == expected
    assert (config["image_init"], config["augmentation"], config["standardise"]) == ("noise", "crop_flip", False)
    assert config["network"] == {
        "depth": 1,
        "width": 8,
        "activation": "swish",
        "normalisation": "group",
        "pooling": "max",
        "pool_size": 3,
        "weight_init": "normal",
    }


@pytest.mark.parametrize("matcher", ["atom-channel", "datadam", "dm", "feature"])
def test_every_matcher_runs_by_name(inside, capsys, matcher):
    run(capsys, "distill", "--ipc", 1, "--matcher", matcher, *QUICK)
    assert SyntheticSet.load(f"digits-{matcher}-ipc1.h5").provenance.method == matcher


def test_any_matcher_option_by_key_and_value(inside, capsys):
    run(
        capsys,
        "distill",
        "--ipc",
        1,
        "--matcher",
        "feature",
        "--matcher-option",
        "normalise=false",
        *QUICK,
        "-o",
        "a.h5",
    )
    assert SyntheticSet.load("a.h5").provenance.config["matcher_options"] == {"normalise": False}


def test_the_same_command_writes_the_same_bytes(inside, capsys):
    for name in ("a.h5", "b.h5"):
        run(capsys, "distill", "--ipc", 1, *QUICK, "-o", name, "--zca")
    assert (inside / "a.h5").read_bytes() == (inside / "b.h5").read_bytes()


def test_selections_share_the_preprocessing_of_a_set(inside, capsys):
    run(capsys, "distill", "--ipc", 1, *QUICK, "--zca", "-o", "a.h5")
    for method in ("random", "herding", "k-center"):
        how = ("--preprocessing-of", "a.h5", "--quiet", "--precision", "float32")
        run(capsys, "select", "--method", method, "--ipc", 3, *how)
        chosen = SyntheticSet.load(f"digits-{method}-ipc3.h5")
        assert chosen.preprocessing.matches(SyntheticSet.load("a.h5").preprocessing)
        assert chosen.provenance.method == method
        assert chosen.ipc == 3


def test_listings(capsys):
    assert "atom-channel" in run(capsys, "distill", "--list-matchers")
    assert "datadam-code" in run(capsys, "distill", "--list-recipes")


def test_a_set_grows_says_from_what_and_is_never_its_own_output(inside, capsys):
    run(capsys, "distill", "--ipc", 1, *QUICK, "-o", "a.h5")
    before = (inside / "a.h5").read_bytes()
    growing = ("distill", "--extend", "a.h5", "--ipc", 2, *QUICK)
    run(capsys, *growing, "-o", "b.h5")
    one, two = (SyntheticSet.load(inside / name) for name in ("a.h5", "b.h5"))
    assert two.first(1).images.numpy().tobytes() == one.images.numpy().tobytes()
    info = " ".join(run(capsys, "store", "info", "b.h5").split())
    assert "grown from: 10 images of 10 classes (atom, 4 iterations, seed 0), as they were" in info
    assert "nested at: 1, 2 images per class" in info
    again = (inside / "b.h5").read_bytes()
    run(capsys, *growing, "-o", "b.h5", "--resume")
    assert main([str(word) for word in (*growing, "-o", "b.h5", "--resume", "--thaw")]) == 1
    assert "was made with another thaw" in capsys.readouterr().err
    assert main([str(word) for word in (*growing, "-o", "a.h5", "--force")]) == 2
    assert "which the command reads" in capsys.readouterr().err
    assert ((inside / "a.h5").read_bytes(), (inside / "b.h5").read_bytes()) == (before, again)
    out = run(
        *(capsys, "consume", "evaluate", "b.h5", "--json", "--epochs", 2, "--repeats", 1, "--quiet"),
        *("--precision", "float32"),
    )
    assert 0 < json.loads(out)[0]["mean"] <= 1


def test_resume_of_a_finished_run_is_no_error(inside, capsys):
    run(capsys, "distill", "--ipc", 1, *QUICK, "-o", "a.h5")
    before = (inside / "a.h5").read_bytes()
    run(capsys, "distill", "--ipc", 1, *QUICK, "-o", "a.h5", "--resume")
    assert (inside / "a.h5").read_bytes() == before
    assert main(["distill", "--ipc", "1", *QUICK, "-o", "a.h5", "--resume", "--seed", "1"]) == 1
    assert "was made with another seed" in capsys.readouterr().err


def test_accuracy_while_distilling_is_logged_told_and_drawn_and_changes_no_byte(inside, capsys):
    words = ("distill", "--ipc", "1", "--iterations", "5", "--width", "8", "--real-batch", "2", "--validation", "0.2")
    words += ("--precision", "float32", "--device", "cpu")
    assert main([*words, "--evaluate-every", "2", "--plot", "-o", "a.h5"]) == 0
    told = capsys.readouterr().err
    records = [json.loads(line) for line in Path("a.log.jsonl").read_text().splitlines()]
    assert [record["iteration"] for record in records if "accuracy" in record] == [2, 4]
    assert all(0.1 < record["accuracy"] <= 1 for record in records if "accuracy" in record)
    assert f"accuracy {100 * records[3]['accuracy']:.1f} %" in told
    assert main([*words, "--plot", "--quiet", "-o", "b.h5"]) == 0
    assert Path("a.h5").read_bytes() == Path("b.h5").read_bytes()
    assert Path("a.loss.png").read_bytes() != Path("b.loss.png").read_bytes()
    capsys.readouterr()
    assert main([*words, "--evaluate-every", "6", "-o", "c.h5"]) == 2
    assert "--evaluate-every 6 has no effect on a run of 5 steps" in capsys.readouterr().err

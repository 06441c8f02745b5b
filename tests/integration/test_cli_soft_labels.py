"""Soft labels from the command line: trained on, chosen, kept apart in results, and told of where they are not used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import small_selection
from synthetic_sets import with_soft_labels

from atom_plugin.cli.main import main
from atom_plugin.datasets import SourceRequest, load_source
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.evaluation import network_of
from atom_plugin.evaluation.trained_network import TrainedNetwork
from atom_plugin.evaluation.training import TrainConfig, train
from atom_plugin.store.synthetic_set import SyntheticSet

QUICK = ("--epochs", "2", "--quiet", "--device", "cpu", "--precision", "float32")
AUDIT = ("--networks", "2", "--images", "40", "--no-baseline")


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SyntheticSet:
    """The set in soft.h5, with a learned learning rate, and beside it the same without, hard.h5."""
    monkeypatch.chdir(tmp_path)
    data = load_source("digits", SourceRequest())
    plain = selected_set(small_selection(ipc=2), data)
    plain.save("hard.h5")
    made = replace(with_soft_labels(plain, "logits"), learned_lr=0.03)
    made.save("soft.h5")
    return made


def done(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    assert main(list(arguments)) == 0
    out, err = capsys.readouterr()
    return out, err


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) in (1, 2)
    return capsys.readouterr().err.splitlines()[-1]


def test_evaluations_on_soft_and_hard_labels_stand_apart(
    held: SyntheticSet, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = ("consume", "evaluate", "soft.h5", "hard.h5", *QUICK, "--repeats", "1")
    out, _ = done(capsys, *evaluation)
    rows = {line.split("|")[1].strip(): line for line in out.splitlines() if "h5" in line}
    assert "soft logits" in rows["soft.h5"] and "hard" in rows["hard.h5"]
    found = json.loads(done(capsys, *evaluation, "--json")[0])
    assert [each["labels"] for each in found] == ["soft logits", "hard"]
    (soft,) = json.loads(
        done(capsys, *(each for each in evaluation if each != "hard.h5"), "--labels", "hard", "--json")[0]
    )
    assert (soft["labels"], soft["accuracies"]) == ("hard", found[1]["accuracies"])
    out, _ = done(capsys, *(each for each in evaluation if each != "hard.h5"), "--learned-lr", "--temperature", "2")
    assert "at the set's learned rate" in out and "soft logits at temperature 2" in out
    line = refused(capsys, *evaluation, "--learned-lr")
    assert "the set has none; give lr" in line
    assert "found --lr and --learned-lr" in refused(capsys, *evaluation, "--learned-lr", "--lr", "0.1")
    assert "temperature (2) has no effect" in refused(capsys, *evaluation, "--labels", "hard", "--temperature", "2")


def test_a_kept_network_learned_what_was_asked(held: SyntheticSet, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--learned-lr", "--temperature", "2")
    done(capsys, "consume", "train", "soft.h5", *QUICK, *options, "-o", "net.safetensors")
    kept = TrainedNetwork.load("net.safetensors")
    config = TrainConfig(epochs=2, lr=0.03, temperature=2.0)
    expected = train(held, network_of(held), config, seed=0)
    for ours, theirs in zip(kept.module.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert (kept.made["training"]["learned_lr"], kept.made["training"]["temperature"]) == (True, 2.0)


def test_a_printed_config_gives_the_same_again(held: SyntheticSet, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = ("consume", "evaluate", "soft.h5", *QUICK, "--repeats", "1", "--learned-lr", "--json")
    Path("mine.toml").write_text(done(capsys, *evaluation, "--print-config")[0])
    again = done(capsys, "consume", "evaluate", "soft.h5", "--config", "mine.toml", "--json")[0]
    assert json.loads(again) == json.loads(done(capsys, *evaluation)[0])


@pytest.mark.parametrize(
    ("command", "user"),
    [
        (("score", "soft.h5", "--repeats", "1", "--full-accuracy", "0.9"), "a label-robust score"),
        (("audit", "soft.h5", *AUDIT), "an audit"),
        (
            ("search", "soft.h5", "--space", "space.toml", "--proxy", "none", "--reference", "none"),
            "an architecture search",
        ),
    ],
)
def test_what_takes_classes_says_so(
    held: SyntheticSet, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], user: str
) -> None:
    Path("space.toml").write_text("[convnet]\nwidth = [4, 8]\ndepth = 1\n")
    soft_out, err = done(capsys, "consume", *command, *QUICK)
    assert f"soft labels are not used: {user} takes the class of each image" in err
    assert err.count("soft labels are not used") == 1
    hard_out, err = done(capsys, "consume", *(word.replace("soft.h5", "hard.h5") for word in command), *QUICK)
    assert "soft labels" not in err
    if command[0] == "score":
        assert soft_out.replace("soft", "hard") == hard_out

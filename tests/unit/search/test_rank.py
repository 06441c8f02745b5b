"""The library: rank, as an evaluation of many networks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from searches import small_set, source

from atom_plugin.datasets.validation import hold_out
from atom_plugin.evaluation import NetworkResultsFile, evaluate, running
from atom_plugin.evaluation.training_recipes import TrainConfig
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.search import Candidate, Space, rank

QUICK = TrainConfig(epochs=3)
HOW = {"seed": 2, "device": "cpu", "precision": "float32"}


def space():
    depths = (4, 1, 2)
    return Space(
        "depths", tuple(Candidate(fields={"depth": d}, network=ConvNetConfig(depth=d, width=8)) for d in depths)
    )


def with_depth(depth):
    """The set, as if it had been made with a network of that depth."""
    held = small_set()
    config = held.provenance.config
    network = {**config["network"], "depth": depth}
    return replace(held, provenance=replace(held.provenance, config={**config, "network": network}))


def test_candidates_stand_by_what_an_evaluation_of_each_gives_and_the_unfit_last(capsys):
    data = hold_out(source(), 0.25)
    found = rank(space(), small_set(), data.validation, QUICK, repeats=2, **HOW)
    accuracies = {}
    for each in found[:2]:
        alone = with_depth(each.candidate.fields["depth"])
        accuracies[each.candidate.name] = evaluate(alone, data.validation, QUICK, repeats=2, **HOW).mean
    assert [each.candidate.name for each in found] == [*sorted(accuracies, key=accuracies.get, reverse=True), "depth=4"]
    assert [each.score.accuracy for each in found[:2]] == sorted(accuracies.values(), reverse=True)
    assert found[2].score.accuracy is None
    assert "4 pooling blocks leave nothing of 8x8 images" in found[2].score.error
    assert capsys.readouterr() == ("", "")


def test_networks_of_a_file_are_not_trained_again(tmp_path, monkeypatch):
    data, file = hold_out(source(), 0.25), tmp_path / "r.jsonl"
    how = {**HOW, "tested_on": data.fingerprint}
    first = rank(space(), small_set(), data.validation, QUICK, finished=NetworkResultsFile(file), **how)
    monkeypatch.setattr(running, "train", lambda *a, **k: pytest.fail("trained"))
    again = rank(space(), small_set(), data.validation, QUICK, finished=NetworkResultsFile(file), **how)
    assert [(each.candidate, each.score.accuracies) for each in again] == [
        (each.candidate, each.score.accuracies) for each in first
    ]
    assert len(NetworkResultsFile(file)) == 2

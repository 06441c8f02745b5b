"""Finished networks as JSON lines: found again, never mixed, whole after any kill."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from small import coloured_source, small_selection

from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.evaluation import NetworkResultsFile, Outcome, Subject, plan_jobs
from atom_plugin.evaluation.training_recipes import TrainConfig

BUDGET = TrainConfig(epochs=3)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.jsonl"


def jobs(training=BUDGET, **options):
    data = coloured_source()
    held = selected_set(small_selection(ipc=1), data)
    subject = Subject(name="a.h5", synthetic_set=held, test=data.test, tested_on=data.fingerprint)
    return plan_jobs([subject], ["convnet"], training, repeats=2, **options)


def test_a_line_says_what_was_trained_how_and_where(path):
    job = jobs()[1]
    NetworkResultsFile(path).append(Outcome(job=job, accuracy=0.75, seconds=1.5, hardware="a processor"))
    (line,) = path.read_text().splitlines()
    record = json.loads(line)
    assert record["format"] == "atom-plugin/network-result"
    assert (record["name"], record["method"], record["ipc"], record["model"]) == ("a.h5", "random", 1, "convnet")
    assert (record["accuracy"], record["seconds"], record["hardware"]) == (0.75, 1.5, "a processor")
    assert record["training"] == {**record["training"], "recipe": "standard", "epochs": 3, "batch_size": 256}
    assert record["network"]["normalisation"] == "instance"
    assert (record["seed"], record["repeat"]) == (0, 1)
    assert {"torch", "timm", "atom-plugin"} <= record["versions"].keys()
    again = NetworkResultsFile(path)
    assert again.accuracy_of(job) == 0.75
    assert again.outcome_of(job).plain() == {"accuracy": 0.75, "seconds": 1.5, "hardware": "a processor", "error": None}
    assert again.outcome_of(jobs()[0]) is None
    assert again.accuracy_of(jobs()[0]) is None
    assert again.accuracy_of(jobs(seed=1)[1]) is None
    assert again.accuracy_of(jobs(precision="bfloat16")[1]) is None


@pytest.mark.parametrize("cut", [1, 20, 60, -1])
def test_what_a_kill_left_of_a_line_is_skipped_and_the_next_stands_apart(path, cut):
    first, second = jobs()
    NetworkResultsFile(path).append(Outcome(job=first, accuracy=0.5))
    whole = path.read_bytes()
    path.write_bytes(whole + whole.replace(b'"repeat": 0', b'"repeat": 1')[:cut])
    opened = NetworkResultsFile(path)
    # Cut at the very last byte, the line lacks only its end, and counts.
    assert (opened.accuracy_of(first), opened.accuracy_of(second)) == (0.5, 0.5 if cut == -1 else None)
    opened.append(Outcome(job=second, accuracy=0.5))
    assert len(NetworkResultsFile(path)) == 2
    assert path.read_bytes().startswith(whole)


def test_two_writers_lose_nothing_and_what_both_did_counts_once(path):
    first, second = jobs()
    one, other = NetworkResultsFile(path), NetworkResultsFile(path)
    one.append(Outcome(job=first, accuracy=0.5))
    other.append(Outcome(job=second, accuracy=0.25))
    other.append(Outcome(job=first, accuracy=0.5))
    again = NetworkResultsFile(path)
    assert len(again) == 2
    assert [again.accuracy_of(job) for job in (first, second)] == [0.5, 0.25]


def test_each_line_is_one_write(path, monkeypatch):
    written = []
    plain = os.fsync
    opened = NetworkResultsFile(path)

    def noting(descriptor):
        written.append(path.read_bytes())
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    for job in jobs():
        opened.append(Outcome(job=job, accuracy=0.5))
    assert [data.count(b"\n") for data in written] == [1, 2]
    assert all(data.endswith(b"\n") for data in written)


def test_another_budget_is_refused_by_what_differs(path):
    opened = NetworkResultsFile(path)
    opened.append(Outcome(job=jobs()[0], accuracy=0.5))
    opened.require_budgets(jobs(seed=4))
    with pytest.raises(ConfigError, match=r"trained with epochs 3, this evaluation asks for 4; give the same"):
        NetworkResultsFile(path).require_budgets(jobs(TrainConfig(epochs=4)))
    with pytest.raises(ConfigError, match=r"trained with recipe standard, this evaluation asks for dm"):
        opened.require_budgets(jobs(TrainConfig.from_recipe("dm", epochs=3)))


def test_compared_augmentations_share_a_file_and_nothing_else_may_differ(path):
    opened = NetworkResultsFile(path)
    ways = [BUDGET, replace(BUDGET, augmentation="none")]
    held = jobs(ways)
    for job, accuracy in zip(held, (0.1, 0.2, 0.3, 0.4), strict=True):
        opened.append(Outcome(job=job, accuracy=accuracy))
    again = NetworkResultsFile(path)
    again.require_budgets(jobs(ways[::-1]))
    again.require_budgets(jobs([*ways, replace(BUDGET, augmentation="randaugment")]))
    assert [again.accuracy_of(job) for job in jobs(ways[::-1])] == [0.3, 0.4, 0.1, 0.2]
    with pytest.raises(ConfigError, match=r"with epochs 3, this evaluation asks for 4; give"):
        again.require_budgets(jobs([replace(way, epochs=4) for way in ways]))
    with pytest.raises(ConfigError, match=r"with augmentation color_\w+, this evaluation asks for none or flip; give"):
        again.require_budgets(jobs([ways[1], replace(BUDGET, augmentation="flip")]))


def test_all_real_images_have_a_budget_of_their_own(path):
    opened = NetworkResultsFile(path)
    opened.append(Outcome(job=jobs()[0], accuracy=0.5))
    longer = jobs(TrainConfig(epochs=9))[0]
    subject = replace(longer.cell.subject, real=coloured_source().train)
    whole = plan_jobs([subject], ["convnet"], TrainConfig(epochs=9), repeats=1)
    opened.require_budgets(whole)
    opened.append(Outcome(job=whole[0], accuracy=0.9))
    assert NetworkResultsFile(path).accuracy_of(whole[0]) == 0.9


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("accuracy 0.5", "line 2: is not JSON"),
        ('{"loss": 1}', "line 2: found format None, expected format 'atom-plugin/network-result'"),
        ("[1]", "line 2: found format None"),
        ('{"format": "atom-plugin/network-result", "format_version": 2}', "format version 2, this release reads 1"),
        ('{"format": "atom-plugin/network-result", "format_version": 1, "accuracy": 0.5}', "line 2: is damaged"),
        ('{"format": "atom-plugin/network-result", "format_version": 1, "accuracy": 50}', "line 2: is damaged"),
    ],
)
def test_foreign_and_damaged_lines_are_named(path, line, words):
    NetworkResultsFile(path).append(Outcome(job=jobs()[0], accuracy=0.5))
    path.write_text(path.read_text() + line + "\n")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=words):
        NetworkResultsFile(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("seconds", ['"long"', "-1", "null"])
def test_a_line_whose_seconds_are_no_time_is_damaged(path, seconds):
    NetworkResultsFile(path).append(Outcome(job=jobs()[0], accuracy=0.5, seconds=2.0))
    path.write_text(path.read_text().replace('"seconds": 2.0', f'"seconds": {seconds}'))
    with pytest.raises(StoreError, match=r"line 1: (is damaged|found the number NaN)"):
        NetworkResultsFile(path)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("training", "standard", "its training is 'standard', expected a dict"),
        ("training", None, "its training is None, expected a dict"),
        ("network", ["convnet"], "its network is .'convnet'., expected a dict"),
        ("full", "no", "its full is 'no', expected a bool"),
        ("full", 0, "its full is 0, expected a bool"),
        ("model", {"name": "convnet"}, "its model is .*, expected a str"),
        ("seed", "0", "its seed is '0', expected a int"),
        ("repeat", True, "its repeat is True, expected a int"),
        ("tested_on", None, "its tested_on is None, expected a str"),
        ("accuracy", "0.5", "its accuracy is '0.5', expected 0 to 1"),
        ("accuracy", 1.5, "its accuracy is 1.5, expected 0 to 1"),
    ],
)
def test_a_value_of_another_type_is_named(path, name, value, words):
    NetworkResultsFile(path).append(Outcome(job=jobs()[0], accuracy=0.5))
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}) + "\n")
    with pytest.raises(StoreError, match=f"line 1: is damaged, {words}; remove the line"):
        NetworkResultsFile(path)


def test_a_training_that_names_what_this_release_leaves_out_is_another_budget(path):
    NetworkResultsFile(path).append(Outcome(job=jobs()[0], accuracy=0.5))
    record = json.loads(path.read_text())
    record["training"]["of_later"] = None
    path.write_text(json.dumps(record) + "\n")
    with pytest.raises(ConfigError, match="trained with of_later None"):
        NetworkResultsFile(path).require_budgets(jobs())


@pytest.mark.parametrize("where", ["nowhere/r.jsonl", "."])
def test_a_file_that_cannot_be_is_found_before_the_work(tmp_path, where):
    with pytest.raises(StoreError, match="cannot be opened"):
        NetworkResultsFile(tmp_path / where)

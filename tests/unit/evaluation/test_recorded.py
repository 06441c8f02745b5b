"""Results of a file by themselves are those of the evaluation that wrote it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small import coloured_source, small_selection

from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.errors import StoreError
from atom_plugin.evaluation import NetworkResultsFile, Outcome, Subject, plan_jobs, summarise_networks
from atom_plugin.evaluation.recorded import recorded_evaluations
from atom_plugin.evaluation.tables import as_csv, evaluation_table
from atom_plugin.evaluation.training import TrainConfig


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, list[Outcome]]:
    data = coloured_source()
    subjects = [
        Subject(
            name=f"{ipc}.h5", synthetic_set=selected_set(small_selection(ipc=ipc), data), test=data.test, tested_on="f"
        )
        for ipc in (1, 2)
    ]
    jobs = plan_jobs(subjects, ["convnet", "vit"], TrainConfig(epochs=3, batch_size=2), repeats=2)
    file = NetworkResultsFile(tmp_path / "r.jsonl")
    outcomes = [Outcome(job=job, accuracy=number / 10) for number, job in enumerate(jobs)]
    for outcome in outcomes:
        file.append(outcome)
    return file.path, outcomes


def test_they_are_those_of_the_evaluation(written: tuple[Path, list[Outcome]]) -> None:
    path, outcomes = written
    expected = [each for each in summarise_networks(outcomes) if len(each.names) == 1]
    found = recorded_evaluations(path)
    for one, other in zip(found, expected, strict=True):
        for name in (
            "names",
            "method",
            "ipc",
            "model",
            "accuracies",
            "training",
            "network",
            "precision",
            "steps",
            "on",
        ):
            assert getattr(one, name) == getattr(other, name), name
    assert "measured on test images" in evaluation_table(found)
    assert as_csv(found).count("\n") == 5


def test_no_file_and_another_releases_result(tmp_path: Path, written: tuple[Path, list[Outcome]]) -> None:
    with pytest.raises(StoreError, match="no such results file"):
        recorded_evaluations(tmp_path / "nothing.jsonl")
    path, _ = written
    first, *others = path.read_text().splitlines()
    record = json.loads(first)
    record["training"]["new"] = 1
    path.write_text("\n".join([json.dumps(record), *others]) + "\n")
    with pytest.raises(StoreError, match=r"does not understand.*'new'.*update"):
        recorded_evaluations(path)

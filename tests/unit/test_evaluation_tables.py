"""Results pooled, tabled, written as CSV and drawn, with their budgets told."""

from __future__ import annotations

import csv
import io
import json
import statistics
from dataclasses import replace

import pytest
import torch
from matplotlib.image import imread
from synthetic_sets import make_set

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.evaluation import Evaluation, Outcome, Subject, plan_jobs, summarise
from atom_plugin.evaluation.chart import draw_chart
from atom_plugin.evaluation.tables import as_csv, table
from atom_plugin.sources import Split
from atom_plugin.training_recipes import TrainConfig

TEST = Split(images=torch.zeros(5, 1, 4, 4, dtype=torch.uint8), labels=torch.zeros(5, dtype=torch.int64))


def subject(name, seed, **provenance):
    made = {"config": {"ipc": 2, "seed": seed}, "seed": seed, **provenance}
    return Subject(name=name, synthetic_set=make_set(pixels=seed, **made), test=TEST, tested_on="f")


def results(
    subjects, models=("convnet",), values=lambda index: index / 20, failing=None, **options
) -> list[Evaluation]:
    jobs = plan_jobs(subjects, models, options.pop("training", TrainConfig()), repeats=2, **options)
    return summarise(
        Outcome(job=job, error="it cannot take 1x4x4 images")
        if (job.cell.subject.name, job.cell.model) == failing
        else Outcome(job=job, accuracy=values(job.index))
        for job in jobs
        if not ((job.cell.subject.name, job.cell.model) == failing and job.repeat)
    )


def test_sets_that_differ_in_their_seed_alone_are_pooled_over_all_networks():
    found = results([subject("a.h5", 0), subject("b.h5", 1), subject("c.h5", 2)])
    *single, pooled = found
    assert [each.names for each in single] == [("a.h5",), ("b.h5",), ("c.h5",)]
    assert pooled.names == ("a.h5", "b.h5", "c.h5")
    values = [index / 20 for index in range(6)]
    assert pooled.accuracies == tuple(values)
    assert pooled.mean == pytest.approx(statistics.fmean(values))
    assert pooled.std == pytest.approx(statistics.stdev(values))
    assert pooled.label == "atom IPC 2, 3 sets"
    written = json.loads(json.dumps(pooled.to_json()))
    assert written["files"] == ["a.h5", "b.h5", "c.h5"]
    assert (written["n"], "file" in written) == (6, False)


@pytest.mark.parametrize(
    "other",
    [
        {"method": "dm"},
        {"config": {"ipc": 2, "seed": 1, "image_lr": 2.0}},
        {"source": {"name": "mnist"}},
        {"iterations": 9},
    ],
)
def test_sets_that_differ_in_more_are_not_pooled(other):
    assert len(results([subject("a.h5", 0), subject("b.h5", 1, **other)])) == 2
    assert len(results([subject("a.h5", 0), subject("b.h5", 1)])) == 3


def test_pooling_is_by_model_and_not_done_where_networks_failed():
    found = results([subject("a.h5", 0), subject("b.h5", 1)], ("convnet", "vit"), failing=("b.h5", "vit"))
    assert [(each.label, each.model) for each in found[4:]] == [("atom IPC 2, 2 sets", "convnet")]
    failed = found[3]
    assert (failed.mean, failed.std, failed.accuracies) == (None, None, ())
    assert failed.to_json()["error"] == "it cannot take 1x4x4 images"
    assert failed.describe() == "failed: it cannot take 1x4x4 images"


def test_a_table_says_the_budget_once_and_what_differs_in_columns():
    found = results([subject("a.h5", 0)], training=TrainConfig.from_recipe("modern", epochs=7))
    told = table(found)
    assert "recipe modern, epochs 7, batch 128, optimizer adamw 0.001 (weight decay 0.05), cosine, 5 % warm-up" in told
    assert "label smoothing 0.1, CutMix 1, augmentation siamese, normalisation instance, precision float32" in told
    assert "sample standard deviation over n networks" in told
    assert "| a.h5 |   2 | convnet | 2 | 2.50 ± 3.54 |" in told
    other = results([subject("b.h5", 1)], training=TrainConfig.from_recipe("datadam-paper", epochs=7))
    mixed = table([*found, *other])
    assert "recipe" not in mixed.partition("\n")[0]
    assert "| set  | IPC | model   | recipe        | batch | optimizer " in mixed
    assert "x0.5 every 15 epochs" in mixed
    assert "epochs 7, " in mixed.partition("\n")[0]


def test_what_failed_stands_in_the_table_with_its_reason():
    told = table(results([subject("a.h5", 0)], ("convnet", "vit"), failing=("a.h5", "vit")))
    assert "| vit     | own           | 0 |      failed |" in told
    assert told.endswith("failed: vit on a.h5: it cannot take 1x4x4 images")


def test_a_convnet_of_another_size_is_told_apart():
    wide = subject("a.h5", 0, config={"network": {"width": 32, "depth": 2, "normalisation": "batch"}})
    (found,) = results([wide])
    assert found.architecture == "convnet (depth 2, width 32)"
    assert "| convnet (depth 2, width 32) |" in table([found])


def test_csv_has_a_line_per_result_and_every_setting():
    found = results([subject("a,b.h5", 0), subject("c.h5", 1)], ("convnet", "vit"), failing=("c.h5", "vit"))
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert [row["files"] for row in rows] == ["a,b.h5", "a,b.h5", "c.h5", "c.h5", "a,b.h5;c.h5"]
    assert float(rows[0]["mean"]) == found[0].mean
    assert (rows[0]["epochs"], rows[0]["normalisation"], rows[1]["normalisation"]) == ("800", "instance", "own")
    assert (rows[3]["mean"], rows[3]["error"], rows[3]["n"]) == ("", "it cannot take 1x4x4 images", "0")


def test_a_chart_has_a_bar_per_result_and_pooled_ones_stand_for_their_sets(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    bars, plain = [], Axes.barh

    def noting(self, place, width, **options):
        bars.append((round(width, 3), options["xerr"]))
        return plain(self, place, width, **options)

    monkeypatch.setattr(Axes, "barh", noting)
    found = results(
        [subject("a.h5", 0), subject("b.h5", 1), subject("$c_1$.h5", 2, method="dm")],
        ("convnet", "vit"),
        failing=("$c_1$.h5", "vit"),
    )
    draw_chart(found, tmp_path / "a.png")
    assert [width for width, _ in bars] == [42.5, 12.5, 22.5]
    assert all(error is not None and error > 0 for _, error in bars)
    assert imread(tmp_path / "a.png").shape[1] == 960
    with pytest.raises(StoreError, match="already exists"):
        draw_chart(found, tmp_path / "a.png")
    draw_chart(found[:1], tmp_path / "a.png", force=True)


def test_a_single_network_has_no_error_bar_and_nothing_is_no_chart(tmp_path):
    found = results([subject("a.h5", 0)])
    draw_chart([replace(found[0], accuracies=(0.5,))], tmp_path / "a.png")
    with pytest.raises(ConfigError, match="found no accuracy to draw"):
        draw_chart([replace(found[0], accuracies=(), error="no")], tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()

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

from atom_plugin.datasets import Split
from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.evaluation import Evaluation, Outcome, Subject, plan_jobs, summarise_networks
from atom_plugin.evaluation.chart import draw_chart
from atom_plugin.evaluation.tables import as_csv, evaluation_table
from atom_plugin.evaluation.training_recipes import TrainConfig

PACKED = TrainConfig.from_recipe("packed")
TEST = Split(images=torch.zeros(5, 1, 4, 4, dtype=torch.uint8), labels=torch.zeros(5, dtype=torch.int64))


def subject(name, seed, *, zca=False, **provenance):
    made = {"config": {"ipc": 2, "seed": seed}, "seed": seed, **provenance}
    held = replace(make_set(pixels=seed, **made), preprocessing=make_set(zca=zca).preprocessing)
    return Subject(name=name, synthetic_set=held, test=TEST, tested_on="f")


def changed(one: Subject, **held) -> Subject:
    return replace(one, synthetic_set=replace(one.synthetic_set, **held))


def results(
    subjects, models=("convnet",), values=lambda index: index / 20, failing=None, **options
) -> list[Evaluation]:
    jobs = plan_jobs(subjects, models, options.pop("training", TrainConfig()), repeats=2, **options)
    return summarise_networks(
        Outcome(job=job, error="it cannot take 1x4x4 images")
        if (job.cell.subject.name, job.cell.model) == failing
        else Outcome(job=job, accuracy=values(index))
        for index, job in enumerate(jobs)
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


def grown(name, seed, **before):
    part = {"method": "atom", "seed": seed, "sha256": str(seed), "config": {"ipc": 1, "seed": seed}, **before}
    return subject(name, seed, config={"ipc": 2, "seed": seed, "extend": f"{seed}.h5", "extended": [part]})


def test_grown_sets_that_differ_in_seeds_alone_are_pooled():
    assert len(results([grown("a.h5", 0), grown("b.h5", 1)])) == 3
    for other in ({"iterations": 3}, {"images": {"class 0": 1}}, {"config": {"ipc": 1, "image_lr": 2.0}}):
        assert len(results([grown("a.h5", 0), grown("b.h5", 1, **other)])) == 2, other
    assert len(results([grown("a.h5", 0), subject("b.h5", 1)])) == 2


def test_subsets_of_different_classes_are_not_pooled():
    one, other = subject("a.h5", 0), subject("b.h5", 1)
    halves = [
        replace(each, synthetic_set=each.synthetic_set.subset(classes))
        for each, classes in ((one, [0, 1]), (other, [1, 2]))
    ]
    assert len(results(halves)) == 2
    alike = [replace(each, synthetic_set=each.synthetic_set.subset([1, 2])) for each in (one, other)]
    assert len(results(alike)) == 3
    uneven = changed(other, labels=torch.tensor([0, 0, 0, 1, 1, 2]))
    assert len(results([changed(one, labels=torch.tensor([0, 1, 1, 2, 2, 2])), uneven])) == 2
    assert len(results([one, changed(other, class_names=("class 0", "class 1", "another"))])) == 2


def test_sets_of_another_preprocessing_are_not_pooled_but_those_that_differ_by_rounding_are():
    one, other = subject("a.h5", 0, zca=True), subject("b.h5", 1, zca=True)
    preprocessing = other.synthetic_set.preprocessing
    whitening = preprocessing.whitening
    for less in (
        make_set().preprocessing,
        replace(preprocessing, std=preprocessing.std * 1.01),
        replace(preprocessing, whitening=replace(whitening, eps=0.2)),
        replace(preprocessing, whitening=replace(whitening, matrix=whitening.matrix * 1.01)),
    ):
        assert len(results([one, changed(other, preprocessing=less)])) == 2
    rounded = replace(preprocessing, whitening=replace(whitening, matrix=whitening.matrix * (1 + 1e-6)))
    assert not rounded.matches(preprocessing)
    assert len(results([one, changed(other, preprocessing=rounded)])) == 3
    third = changed(subject("c.h5", 2, zca=True), preprocessing=make_set().preprocessing)
    assert results([one, third, other])[-1].names == ("a.h5", "b.h5"), "whatever stands between"


def test_pooling_is_by_model_and_not_done_where_networks_failed():
    found = results([subject("a.h5", 0), subject("b.h5", 1)], ("convnet", "vit"), failing=("b.h5", "vit"))
    assert [(each.label, each.model) for each in found[4:]] == [("atom IPC 2, 2 sets", "convnet")]
    failed = found[3]
    assert (failed.mean, failed.std, failed.accuracies) == (None, None, ())
    assert failed.to_json()["error"] == "it cannot take 1x4x4 images"
    assert failed.describe() == "failed: it cannot take 1x4x4 images"


def test_a_table_says_the_budget_once_and_what_differs_in_columns():
    found = results([subject("a.h5", 0)], training=TrainConfig.from_recipe("modern", epochs=7))
    told = evaluation_table(found)
    assert "recipe modern, epochs 7, batch 128, steps 7, optimizer adamw 0.001 (weight decay 0.05), cosine, 5 %" in told
    assert (
        "label smoothing 0.1, CutMix probability 1, augmentation siamese, normalisation instance, precision float32"
        in told
    )
    assert "sample standard deviation over n networks" in told
    assert "| a.h5 |   2 | convnet | 2 | 2.50 ± 3.54 |" in told
    other = results([subject("b.h5", 1)], training=TrainConfig.from_recipe("datadam-paper", epochs=7))
    mixed = evaluation_table([*found, *other])
    assert "recipe" not in mixed.partition("\n")[0]
    assert "| set  | IPC | model   | recipe        | batch | optimizer " in mixed
    assert "x0.5 every 15 epochs" in mixed
    assert "epochs 7, " in mixed.partition("\n")[0]


def test_trainings_of_equal_epochs_and_other_steps_are_told_apart():
    found = [results([subject("a.h5", 0)], training=TrainConfig(epochs=6, batch_size=size))[0] for size in (1, 4)]
    images = len(subject("a.h5", 0))
    assert [each.steps for each in found] == [6 * images, 6 * -(-images // 4)]
    assert [each.to_json()["steps"] for each in found] == [each.steps for each in found]
    assert "| batch | steps |" in evaluation_table(found)
    assert "x0.2 at 2/3 and 5/6" in evaluation_table(results([subject("a.h5", 0)], training=PACKED))


def test_a_packed_set_counts_the_images_that_a_network_sees():
    packed = Subject(name="a.h5", synthetic_set=make_set(factor=2), test=TEST, tested_on="f")
    (found,) = results([packed], training=TrainConfig(epochs=3, batch_size=5))
    assert (len(packed), found.images, found.steps) == (24, 24, 15)


def test_what_failed_stands_in_the_table_with_its_reason():
    told = evaluation_table(results([subject("a.h5", 0)], ("convnet", "vit"), failing=("a.h5", "vit")))
    assert "| vit     | own           | 0 |      failed |" in told
    assert told.endswith("failed: vit on a.h5: it cannot take 1x4x4 images")


def test_different_preprocessing_has_a_column_and_a_line_that_names_both():
    white = subject("white.h5", 1, zca=True)
    other = replace(white.synthetic_set.preprocessing, std=white.synthetic_set.preprocessing.std * 1.0002)
    alike = changed(subject("alike.h5", 2, zca=True), preprocessing=other)
    found = results([subject("plain.h5", 0), white, alike], ("convnet", "vit"))
    told = evaluation_table(found)
    standardised, whitened = found[0].preprocessing, found[2].preprocessing
    assert standardised.startswith("standardised (mean ") and whitened.endswith("ZCA whitened (eps 0.1)")
    assert found[4].preprocessing == f"{whitened}, as of alike.h5", "what reads alike is told apart"
    assert told.count(f"| {standardised} ") == 2 and "preprocessing" not in told.partition("\n")[0]
    (line,) = [line for line in told.splitlines() if line.startswith("Sets differ in their preprocessing")]
    assert f"plain.h5: {standardised}; white.h5: {whitened}; alike.h5: " in line
    assert json.loads(json.dumps(found[0].to_json()))["preprocessing"] == standardised
    same = evaluation_table(results([subject("a.h5", 0), subject("b.h5", 1)]))
    assert f"preprocessing {standardised}" in same.partition("\n")[0] and "Sets differ" not in same


def test_one_network_has_no_deviation_in_any_form():
    (found,) = results([subject("a.h5", 0)])
    one = replace(found, accuracies=(0.5,))
    assert (one.std, one.to_json()["std"]) == (None, None)
    (row,) = csv.DictReader(io.StringIO(as_csv([one])))
    assert (row["n"], row["mean"], row["std"]) == ("1", "0.5", "")
    assert "| 50.00 |" in " ".join(evaluation_table([one]).split())
    assert one.describe().startswith("50.00 % (1 network")


AUGMENTED = [TrainConfig(augmentation="none"), TrainConfig()]


def test_compared_augmentations_have_a_row_each_and_a_column():
    found = results([subject("a.h5", 0), subject("b.h5", 1)], ("convnet", "vit"), training=AUGMENTED)
    rows = [
        line.split("|")[1:5] for line in evaluation_table(found).splitlines() if line.startswith(("| a.h5", "| atom"))
    ]
    assert [tuple(map(str.strip, row)) for row in rows] == [
        ("a.h5", "2", "convnet", "none"),
        ("a.h5", "2", "convnet", "siamese"),
        ("a.h5", "2", "vit", "none"),
        ("a.h5", "2", "vit", "siamese"),
        *(("atom IPC 2, 2 sets", "2", model, name) for model in ("convnet", "vit") for name in ("none", "siamese")),
    ]
    assert "| set                | IPC | model   | augmentation |" in evaluation_table(found)
    assert "augmentation" not in evaluation_table(found).partition("\n")[0]
    failed = evaluation_table(
        results([subject("a.h5", 0)], ("convnet", "vit"), failing=("a.h5", "vit"), training=AUGMENTED)
    )
    assert failed.splitlines()[-2:] == [
        f"failed: vit on a.h5, augmentation {name}: it cannot take 1x4x4 images" for name in ("none", "siamese")
    ]


def test_a_convnet_of_another_size_is_told_apart():
    wide = subject("a.h5", 0, config={"network": {"width": 32, "depth": 2, "normalisation": "batch"}})
    (found,) = results([wide])
    assert found.architecture == "convnet (depth 2, width 32)"
    assert "| convnet (depth 2, width 32) |" in evaluation_table([found])


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


def test_a_chart_tells_augmentations_apart_and_hides_no_set_that_is_not_pooled(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    labels, plain = [], Axes.set_yticks
    monkeypatch.setattr(
        Axes, "set_yticks", lambda self, places, names, **how: labels.extend(names) or plain(self, places, names, **how)
    )
    found = results([subject("a.h5", 0), subject("b.h5", 1)], training=AUGMENTED)
    draw_chart(found, tmp_path / "a.png")
    assert labels == ["atom IPC 2, 2 sets\naugmentation none", "atom IPC 2, 2 sets\naugmentation siamese"]
    labels.clear()
    less = [each for each in found if (each.names, each.training) != (("a.h5", "b.h5"), AUGMENTED[1])]
    draw_chart(less, tmp_path / "b.png")
    assert labels == [f"{name}\naugmentation siamese" for name in ("a.h5", "b.h5")] + [
        "atom IPC 2, 2 sets\naugmentation none"
    ]


def test_a_single_network_has_no_error_bar_and_nothing_is_no_chart(tmp_path):
    found = results([subject("a.h5", 0)])
    draw_chart([replace(found[0], accuracies=(0.5,))], tmp_path / "a.png")
    with pytest.raises(ConfigError, match="found no accuracy to draw"):
        draw_chart([replace(found[0], accuracies=(), error="no")], tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()


def test_rows_of_latex_under_comments():
    told = evaluation_table(
        results([subject("a_1.h5", 0)], ("convnet", "vit"), failing=("a_1.h5", "vit")), latex=True
    ).splitlines()
    rows = [line for line in told if line and not line.startswith("%")]
    assert rows[0] == r"\begin{tabular}{lrllrr}" and rows[1] == r"\toprule" and rows[-1] == r"\end{tabular}"
    assert rows[2].startswith(r"set & IPC & model & normalisation & n & accuracy, \%")
    assert rows[4] == r"a\_1.h5 & 2 & convnet & instance & 2 & 2.50 $\pm$ 3.54 \\"
    assert told[0].startswith("% recipe standard") and told[-1].startswith("% failed: vit on a_1.h5")

"""An evaluation as a list of jobs, and what running it gives."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small import coloured_source, small_selection

from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.errors import ConfigError, ModelError
from atom_plugin.evaluation import (
    NamedModel,
    Subject,
    cuda_training,
    evaluate,
    full_subjects,
    network_for,
    network_of,
    plan_jobs,
    run_jobs,
    summarise_networks,
)
from atom_plugin.evaluation.training_recipes import TrainConfig
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.store.soft_labels import KINDS, SoftLabels

CPU = torch.device("cpu")
QUICK = TrainConfig(epochs=1)


def subjects(*seeds, **overrides):
    """Selected sets of one source that differ in their seed alone."""
    data = coloured_source()
    sets = [selected_set(small_selection(ipc=2, seed=seed, **overrides), data) for seed in seeds]
    return data, [
        Subject(name=f"{seed}.h5", synthetic_set=held, test=data.test, tested_on=data.fingerprint)
        for seed, held in zip(seeds, sets, strict=True)
    ]


def test_jobs_come_cell_by_cell_and_each_is_another_network():
    _, two = subjects(0, 1)
    jobs = plan_jobs(two, ["convnet", "alexnet"], QUICK, repeats=3)
    assert len(jobs) == 12
    assert [(job.cell.subject.name, job.cell.model, job.repeat) for job in jobs[2:5]] == [
        ("0.h5", "convnet", 2),
        ("0.h5", "alexnet", 0),
        ("0.h5", "alexnet", 1),
    ]
    assert len({job.key for job in jobs}) == 12


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"precision": "bfloat16"}, {"normalisation": "batch"}, {"training": replace(QUICK, lr=0.02)}],
)
def test_another_seed_precision_network_or_budget_is_another_job(change):
    _, one = subjects(0)
    changed = {**change}
    training = changed.pop("training", QUICK)
    (before,) = plan_jobs(one, ["convnet"], QUICK, repeats=1)
    (after,) = plan_jobs(one, ["convnet"], training, repeats=1, **changed)
    assert before.key != after.key


def test_a_fingerprint_is_of_what_networks_learn_from():
    data, (one,) = subjects(0)
    held = one.synthetic_set
    renamed = replace(held, provenance=replace(held.provenance, method="other"))
    assert replace(one, synthetic_set=renamed).fingerprint == one.fingerprint
    for other in (
        replace(held, images=held.images + 1),
        replace(held, labels=held.labels.flip(0)),
        *(replace(held, soft_labels=SoftLabels(values=held.targets(), kind=kind)) for kind in KINDS),
        replace(held, preprocessing=replace(held.preprocessing, std=held.preprocessing.std * 2)),
    ):
        assert replace(one, synthetic_set=other).fingerprint != one.fingerprint
    assert replace(one, real=data.train).fingerprint != one.fingerprint


def test_all_images_stand_once_for_sets_that_share_preprocessing_and_network():
    data, alike = subjects(0, 1)
    _, other = subjects(2, network={"width": 16})
    whole = full_subjects([*alike, *other], [data] * 3)
    assert [len(subject) for subject in whole] == [len(data.train)] * 2
    assert {subject.method for subject in whole} == {"full"}
    assert [network_of(subject.synthetic_set).width for subject in whole] == [8, 16]
    cells = [job.cell for job in plan_jobs(whole, ["convnet", "vgg11"], QUICK, repeats=1)]
    assert [cell.model for cell in cells] == ["convnet", "vgg11", "convnet"], "the VGG is the same for both"


def test_all_images_under_several_preprocessings_are_told_apart_by_name():
    data, (one, other, third) = subjects(0, 1, 2)
    held = one.synthetic_set.preprocessing
    under = [held, replace(held, std=held.std * 2), replace(held, std=held.std * (1 + 1e-6))]
    three = [
        replace(subject, synthetic_set=replace(subject.synthetic_set, preprocessing=preprocessing))
        for subject, preprocessing in zip((one, other, third), under, strict=True)
    ]
    assert [whole.name for whole in full_subjects(three[:1], [data])] == ["coloured, all images"]
    assert [whole.name for whole in full_subjects(three[:2], [data] * 2)] == [
        f"coloured, all images, {preprocessing.describe()}" for preprocessing in under[:2]
    ]
    assert [whole.name for whole in full_subjects(three, [data] * 3)] == [
        "coloured, all images, as for 0.h5",
        f"coloured, all images, {under[1].describe()}",
        "coloured, all images, as for 2.h5",
    ]


def test_several_trainings_are_cells_of_their_own_from_the_same_seeds():
    _, one = subjects(0)
    ways = [QUICK, replace(QUICK, augmentation="none")]
    jobs = plan_jobs(one, ["convnet", "alexnet"], ways, repeats=2)
    assert [(job.cell.model, job.cell.training, job.repeat) for job in jobs] == [
        (model, way, repeat) for model in ("convnet", "alexnet") for way in ways for repeat in (0, 1)
    ]
    assert [job.key for job in jobs[:2]] == [job.key for job in plan_jobs(one, ["convnet"], QUICK, repeats=2)]
    with pytest.raises(ConfigError, match=r"'standard' with augmentation 'none' twice, expected each once"):
        plan_jobs(one, ["convnet"], [ways[1], ways[0], ways[1]])


def test_the_same_set_twice_is_refused_unless_its_network_is_another():
    _, (one,) = subjects(0)
    _, (wide,) = subjects(0, network={"width": 16})
    assert wide.fingerprint == one.fingerprint
    jobs = plan_jobs([one, replace(wide, name="wide.h5")], ["convnet", "vgg11"], QUICK, repeats=1)
    assert len(jobs) == 4
    assert len({job.key for job in jobs}) == 3, "the VGG is the same for both"
    with pytest.raises(ConfigError, match=r"0\.h5 and copy\.h5 have the same images; name them once"):
        plan_jobs([one, replace(one, name="copy.h5")], ["convnet"], QUICK)
    with pytest.raises(ConfigError, match=r"0\.h5: has no images"):
        nothing = replace(one.synthetic_set, images=one.synthetic_set.images[:0], labels=one.synthetic_set.labels[:0])
        plan_jobs([replace(one, synthetic_set=nothing)], ["convnet"], QUICK)
    with pytest.raises(ConfigError, match="'convnet' twice"):
        plan_jobs([one], ["convnet", "convnet"], QUICK)
    with pytest.raises(ConfigError, match="repeats must be at least 1, not 0"):
        plan_jobs([one], ["convnet"], QUICK, repeats=0)


@pytest.mark.parametrize("name", ["alexnett", "timm:vit_tinny_patch16_224", "resnet"])
def test_an_unknown_model_is_found_before_the_work(name):
    _, one = subjects(0)
    with pytest.raises(ModelError, match="no model"):
        plan_jobs(one, ["convnet", name], QUICK)


def test_normalisation_goes_to_the_models_that_have_a_choice():
    _, (one,) = subjects(0)
    held = one.synthetic_set
    assert network_for("convnet", held) == network_of(held)
    assert network_for("convnet", held, "batch") == replace(network_of(held), normalisation="batch")
    assert network_for("alexnet", held) == NamedModel(name="alexnet", normalisation="none")
    assert network_for("vgg11", held, "batch") == NamedModel(name="vgg11", normalisation="batch")
    assert network_for("vit", held, "batch") == NamedModel(name="vit")
    assert network_for("timm:resnet10t", held, "batch") == NamedModel(name="timm:resnet10t")


def test_jobs_give_what_one_evaluation_gives_in_any_part_of_the_list():
    data, one = subjects(0)
    jobs = plan_jobs(one, ["convnet"], QUICK, repeats=3, seed=2)
    at_once = [outcome.accuracy for outcome in run_jobs(jobs, device=CPU)]
    apart = [outcome.accuracy for part in (jobs[2:], jobs[:2]) for outcome in run_jobs(part, device=CPU)]
    assert [*apart[1:], apart[0]] == at_once
    result = evaluate(one[0].synthetic_set, data.test, QUICK, repeats=3, seed=2, device="cpu", precision="float32")
    assert list(result.accuracies) == at_once


def test_what_fails_ends_its_cell_and_nothing_else(monkeypatch):
    _, two = subjects(0, 1)
    jobs = plan_jobs(two, ["convnet", "vit"], QUICK, repeats=2)

    def refuse(self, image_shape, classes, *, generator=None):
        raise ModelError("vit cannot take 3x8x8 images")

    monkeypatch.setattr(NamedModel, "build", refuse)
    started, epochs = [], []
    outcomes = list(run_jobs(jobs, device=CPU, on_start=started.append, on_epoch=epochs.append))
    assert [jobs.index(outcome.job) for outcome in outcomes] == [0, 1, 2, 4, 5, 6]
    assert [outcome.error is None for outcome in outcomes] == [True, True, False] * 2
    assert [jobs.index(job) for job in started] == [0, 1, 2, 4, 5, 6]
    assert len(epochs) == 4
    assert all(outcome.seconds > 0 and outcome.hardware for outcome in outcomes if outcome.error is None)
    failed = [evaluation for evaluation in summarise_networks(outcomes) if evaluation.error]
    assert [(each.model, each.names, each.mean) for each in failed] == [
        ("vit", ("0.h5",), None),
        ("vit", ("1.h5",), None),
    ]


@pytest.mark.parametrize("error", [ValueError("Expected\nmore than 1 value"), torch.OutOfMemoryError("CUDA out")])
@pytest.mark.parametrize("where", ["train", "accuracy"])
def test_what_a_foreign_network_raises_in_training_or_testing_ends_its_cell_in_one_line(monkeypatch, error, where):
    import atom_plugin.evaluation.running as running

    _, one = subjects(0)
    jobs = plan_jobs(one, ["alexnet", "convnet"], QUICK, repeats=2)
    plain, calls, told = getattr(running, where), [], []

    def failing(*args, **options):
        calls.append(args)
        if len(calls) == 1:
            raise error
        return plain(*args, **options)

    monkeypatch.setattr(running, where, failing)
    failed, *done = run_jobs(jobs, device=CPU, on_error=told.append)
    assert failed.job is jobs[0]
    words = " ".join(str(error).split())
    assert failed.error == (
        f"alexnet cannot be trained and tested on 6 images of 3x8x8, 256 a batch ({type(error).__name__}: {words}); "
        "choose another model or --batch-size"
    )
    assert [outcome.error for outcome in done] == [None, None]
    assert [type(each) for each in told] == [ModelError]
    assert told[0].__cause__ is error


def test_our_own_mistakes_are_no_failures_of_a_model_but_a_lack_of_memory_is(monkeypatch):
    import atom_plugin.evaluation.running as running

    _, one = subjects(0)
    jobs = plan_jobs(one, ["convnet"], QUICK, repeats=1)

    def failing(*args, **options):
        raise errors.pop()

    errors = [torch.OutOfMemoryError("CUDA out of memory"), ValueError("ours")]
    monkeypatch.setattr(running, "train", failing)
    with pytest.raises(ValueError, match=r"^ours$"):
        list(run_jobs(jobs, device=CPU))
    (outcome,) = run_jobs(jobs, device=CPU)
    assert "convnet cannot be trained and tested on 6 images of 3x8x8" in outcome.error


def test_a_network_on_all_images_sees_all_of_them():
    data, one = subjects(0)
    jobs = plan_jobs(full_subjects(one, [data]), ["convnet"], TrainConfig(epochs=40, lr=0.05), repeats=1)
    (outcome,) = run_jobs(jobs, device=CPU)
    assert outcome.accuracy is not None
    assert outcome.accuracy > 0.6
    (evaluation,) = summarise_networks([outcome])
    assert (evaluation.method, evaluation.ipc, evaluation.images) == ("full", None, 36)
    assert isinstance(evaluation.network, ConvNetConfig)


def test_where_networks_cannot_train_together_they_train_in_turn(monkeypatch, caplog):
    _, one = subjects(0)
    jobs = plan_jobs(one, ["convnet"], QUICK, repeats=2)
    in_turn = [outcome.accuracy for outcome in run_jobs(jobs, device=CPU)]

    def refused(*given, **how):
        raise RuntimeError("GET was unable to find an engine to execute this computation")

    monkeypatch.setattr(cuda_training, "suits", lambda *given: True)
    monkeypatch.setattr(cuda_training, "most_at_once", lambda *given: 2)
    monkeypatch.setattr(cuda_training, "train_together", refused)
    assert [outcome.accuracy for outcome in run_jobs(jobs, device=CPU)] == in_turn
    assert "each in a graph of its own, not 2 together (GET was unable" in caplog.text
    assert "in turn, not 1 together (GET was unable" in caplog.text


def test_where_grouped_convolutions_are_refused_each_network_has_a_graph_of_its_own(monkeypatch, caplog):
    _, one = subjects(0)
    jobs = plan_jobs(one, ["convnet"], QUICK, repeats=3)
    in_turn = [outcome.accuracy for outcome in run_jobs(jobs, device=CPU)]
    together, sizes, epochs = cuda_training.train_together, [], []

    def alone(sets, *given, **how):
        sizes.append(len(sets))
        if len(sets) > 1:
            raise RuntimeError("GET was unable to find an engine to execute this computation")
        return together(sets, *given, **how)

    monkeypatch.setattr(cuda_training, "suits", lambda *given: True)
    monkeypatch.setattr(cuda_training, "most_at_once", lambda *given: 3)
    monkeypatch.setattr(cuda_training, "train_together", alone)
    found = [outcome.accuracy for outcome in run_jobs(jobs, device=CPU, on_epoch=epochs.append)]
    assert found == pytest.approx(in_turn, abs=0.06)
    assert sizes == [3, 1, 1, 1]
    assert len(epochs) == 3 * QUICK.epochs
    assert "graph of its own" in caplog.text

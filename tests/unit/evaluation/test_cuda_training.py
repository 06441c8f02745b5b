"""Networks trained together against each of them alone."""

import re
from dataclasses import replace

import pytest
import torch
from small import coloured_source, small_selection
from synthetic_sets import with_soft_labels

from atom_plugin import evaluation
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.errors import ConfigError, DivergenceError
from atom_plugin.evaluation import cuda_training
from atom_plugin.evaluation.cuda_training import train_together
from atom_plugin.evaluation.training import TrainConfig, TrainingRun, accuracy, train
from atom_plugin.models.convnet import NORMALISATIONS, ConvNetConfig
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.store.soft_labels import KINDS

CPU = torch.device("cpu")
IN_DOUBLE = TrainingRun(dtype=torch.float64)  # in which only mistakes differ; the loss alone is float32, for both
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def a_set(seed=0):
    return selected_set(small_selection(ipc=4, seed=seed), coloured_source())


def differences(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    return [(ours[name].double() - theirs[name].double()).abs().max().item() for name in ours]


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("batch_size", [256, 5])
def test_each_network_ends_where_it_would_have_alone(normalisation, batch_size):
    sets = [a_set(0), a_set(0), a_set(1)]
    network = ConvNetConfig(width=8, depth=2, normalisation=normalisation, pooling="max")
    config = TrainConfig(epochs=4, batch_size=batch_size, lr=0.05)
    trained = train_together(sets, network, config, seeds=[3, 4, 3], run=IN_DOUBLE)
    for chosen, seed, ours in zip(sets, [3, 4, 3], trained, strict=True):
        alone = train(chosen, network, config, seed=seed, run=IN_DOUBLE)
        assert max(differences(ours, alone)) < 1e-6
        untrained = network.build((3, 8, 8), 3, generator=generator_for(seed, "network"))
        assert max(differences(ours, untrained)) > 1e-3
    assert max(differences(trained[0], trained[1])) > 1e-2
    assert max(differences(trained[0], trained[2])) > 1e-4


def test_repeats_of_one_set_share_its_images_and_reach_its_accuracy():
    data, chosen = coloured_source(), a_set()
    network, config = ConvNetConfig(width=16, depth=2), TrainConfig(epochs=60, lr=0.05)
    epochs: list[int] = []
    trained = train_together([chosen] * 3, network, config, seeds=[0, 1, 2], run=TrainingRun(on_epoch=epochs.append))
    assert epochs == list(range(1, 61))
    assert min(accuracy(one, chosen.preprocessing, data.test, device=CPU) for one in trained) > 0.8


def test_sets_that_do_not_fit_are_refused():
    network, config = ConvNetConfig(width=4, depth=2), TrainConfig(epochs=1)
    with pytest.raises(ConfigError, match="found 1 sets and 2 seeds"):
        train_together([a_set()], network, config, seeds=[0, 1])
    smaller = selected_set(small_selection(ipc=2), coloured_source())
    with pytest.raises(ConfigError, match=r"not 6 images of \(3, 8, 8\) in 3 classes and 12 images"):
        train_together([a_set(), smaller], network, config, seeds=[0, 1])


def test_a_network_that_blows_up_is_named():
    config = TrainConfig(epochs=20, lr=1e30)
    (failed,) = train_together([a_set()], ConvNetConfig(width=4, depth=2), config, seeds=[7])
    assert isinstance(failed, DivergenceError)
    assert re.match(r"training network 7 ended with a loss of .*; lower --lr \(now 1e\+30\)", str(failed))


def test_a_network_that_blows_up_leaves_those_beside_it_as_they_are():
    chosen, network, config = a_set(), ConvNetConfig(width=4, depth=2), TrainConfig(epochs=3)
    broken = replace(chosen, images=chosen.images * float("nan"))
    first, failed, last = train_together([chosen, broken, chosen], network, config, seeds=[0, 1, 2])
    expected = train_together([chosen] * 2, network, config, seeds=[0, 2])
    for ours, without in zip((first, last), expected, strict=True):
        assert max(differences(ours, without)) < 1e-6
    assert isinstance(failed, DivergenceError)
    assert "training network 1 ended with a loss of nan" in str(failed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cutmix", [0.0, 1.0])
def test_soft_labels_are_learned_as_alone(kind, cutmix):
    sets, network = [with_soft_labels(a_set(seed), kind) for seed in (0, 1)], ConvNetConfig(width=8, depth=2)
    config = TrainConfig(epochs=4, batch_size=5, lr=0.05, cutmix=cutmix)
    trained = train_together(sets, network, config, seeds=[3, 4], run=IN_DOUBLE)
    hard = train_together(sets, network, replace(config, labels="hard"), seeds=[3, 4], run=IN_DOUBLE)
    for chosen, seed, ours, without in zip(sets, [3, 4], trained, hard, strict=True):
        assert max(differences(ours, train(chosen, network, config, seed=seed, run=IN_DOUBLE))) < 1e-6
        assert max(differences(ours, without)) > 1e-3


def test_sets_of_one_kind_of_labels_and_one_learning_rate_train_together():
    network, config = ConvNetConfig(width=4, depth=2), TrainConfig(epochs=1)
    soft = with_soft_labels(a_set(), "logits")
    with pytest.raises(ConfigError, match=r"in 3 classes \(soft logits labels\)"):
        train_together([soft, a_set()], network, config, seeds=[0, 1])
    rates = [replace(a_set(), learned_lr=rate) for rate in (0.02, 0.01)]
    with pytest.raises(ConfigError, match=r"at one learning rate, not 0\.01 and 0\.02"):
        train_together(rates, network, replace(config, learned_lr=True), seeds=[0, 1])
    (ours,) = train_together(rates[:1], network, replace(config, learned_lr=True), seeds=[0], run=IN_DOUBLE)
    expected = train(a_set(), network, replace(config, lr=0.02), seed=0, run=IN_DOUBLE)
    assert max(differences(ours, expected)) < 1e-6


@needs_gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cutmix", [0.0, 0.5])
def test_soft_labels_on_a_gpu_too(kind, cutmix):
    run, chosen = TrainingRun(device=torch.device("cuda")), with_soft_labels(a_set(), kind)
    network, config = ConvNetConfig(width=16, depth=2), TrainConfig(epochs=5, cutmix=cutmix)
    for seed, ours in enumerate(train_together([chosen] * 2, network, config, seeds=range(2), run=run)):
        assert max(differences(ours, train(chosen, network, config, seed=seed, run=run))) < 1e-2


@needs_gpu
@pytest.mark.parametrize("normalisation", ["batch", "instance"])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("cutmix", [0.0, 0.5])
def test_on_a_gpu_too(normalisation, count, cutmix):
    run, chosen = TrainingRun(device=torch.device("cuda")), a_set()
    network = ConvNetConfig(width=16, depth=2, normalisation=normalisation)
    config = TrainConfig(epochs=5, cutmix=cutmix)
    trained = train_together([chosen] * count, network, config, seeds=range(count), run=run)
    for seed, ours in enumerate(trained):
        assert max(differences(ours, train(chosen, network, config, seed=seed, run=run))) < 1e-2


@pytest.mark.parametrize("cutmix", [0.5, 1.0])
@pytest.mark.parametrize("batch_size", [12, 5])
def test_batches_are_cut_and_mixed_as_alone(cutmix, batch_size):
    sets, network = [a_set(0), a_set(1)], ConvNetConfig(width=8, depth=2)
    config = TrainConfig(epochs=8, batch_size=batch_size, lr=0.05, cutmix=cutmix, label_smoothing=0.1)
    trained = train_together(sets, network, config, seeds=[3, 4], run=IN_DOUBLE)
    plain = train_together(sets, network, replace(config, cutmix=0.0), seeds=[3, 4], run=IN_DOUBLE)
    for chosen, seed, ours, unmixed in zip(sets, [3, 4], trained, plain, strict=True):
        assert max(differences(ours, train(chosen, network, config, seed=seed, run=IN_DOUBLE))) < 1e-6
        assert max(differences(ours, unmixed)) > 1e-3


@pytest.mark.parametrize("schedule", ["half", "multistep", "step", "cosine"])
def test_every_course_of_the_learning_rate_and_smoothing_is_that_of_training_alone(schedule):
    chosen, network = a_set(), ConvNetConfig(width=4, depth=2)
    config = TrainConfig(epochs=5, lr=0.05, schedule=schedule, step_epochs=2, warmup=0.4, label_smoothing=0.1)
    (ours,) = train_together([chosen], network, config, seeds=[3], run=IN_DOUBLE)
    assert max(differences(ours, train(chosen, network, config, seed=3, run=IN_DOUBLE))) < 1e-6


def test_what_draws_from_the_host_as_it_goes_is_refused_and_trained_in_turn():
    cuda = torch.device("cuda")
    for other in ({"recipe": "modern", "optimizer": "adamw"}, {"augmentation": "randaugment"}):
        config = TrainConfig(epochs=1, **other)
        assert not cuda_training.suits(ConvNetConfig(), config, cuda)
        with pytest.raises(ConfigError, match="train them in turn"):
            train_together([a_set()], ConvNetConfig(width=4, depth=2), config, seeds=[0])
    for config in (TrainConfig(), TrainConfig.from_recipe("packed")):
        assert cuda_training.suits(ConvNetConfig(), config, cuda)
    assert not cuda_training.suits(ConvNetConfig(), TrainConfig(), CPU)


def test_an_evaluation_gives_what_its_networks_reach_in_turn(monkeypatch):
    data = coloured_source()
    subject = evaluation.Subject(name="a", synthetic_set=a_set(), test=data.test, tested_on="x")
    jobs = evaluation.plan_jobs([subject], ["convnet"], TrainConfig(epochs=30, lr=0.05), repeats=3)
    in_turn = list(evaluation.run_jobs(jobs, device=CPU))
    monkeypatch.setattr(cuda_training, "suits", lambda *_: True)
    monkeypatch.setattr(cuda_training, "most_at_once", lambda *_: 2)
    at_once = list(evaluation.run_jobs(jobs, device=CPU))
    assert [outcome.job for outcome in at_once] == jobs
    for one, other in zip(in_turn, at_once, strict=True):
        assert one.accuracy == pytest.approx(other.accuracy, abs=0.06)


@pytest.fixture
def evaluated_together(monkeypatch):
    """Runs four networks as a GPU does, in groups of up to three; gives outcomes, epochs told, and the sizes of groups."""
    data, sizes, plain = coloured_source(), [], cuda_training.train_together
    subject = evaluation.Subject(name="a", synthetic_set=a_set(), test=data.test, tested_on="x")
    jobs = evaluation.plan_jobs([subject], ["convnet"], TrainConfig(epochs=2), repeats=4)
    monkeypatch.setattr(cuda_training, "suits", lambda *_: True)
    monkeypatch.setattr(cuda_training, "most_at_once", lambda *_: 3)
    monkeypatch.setattr(
        cuda_training, "train_together", lambda sets, *args, **how: sizes.append(len(sets)) or plain(sets, *args, **how)
    )

    def run(**options):
        epochs = []
        return list(evaluation.run_jobs(jobs, device=CPU, on_epoch=epochs.append, **options)), epochs, sizes

    return run


def test_an_epoch_of_several_networks_counts_for_each(evaluated_together):
    _, epochs, sizes = evaluated_together()
    assert sizes == [3, 1]
    assert epochs == [1, 1, 1, 2, 2, 2, 1, 2]


def test_fewer_at_once_may_be_asked_for(evaluated_together):
    outcomes, epochs, sizes = evaluated_together(at_once=1)
    assert sizes == [1, 1, 1, 1]
    assert len(outcomes) == 4
    assert epochs == [1, 2] * 4


def test_an_evaluation_keeps_the_networks_beside_one_that_blew_up(evaluated_together, monkeypatch):
    build, built = ConvNetConfig.build, []

    def one_broken(*args, **options):
        network = build(*args, **options)
        built.append(network)
        if len(built) == 2:
            torch.nn.init.constant_(next(network.parameters()), float("nan"))
        return network

    monkeypatch.setattr(ConvNetConfig, "build", one_broken)
    outcomes, _, sizes = evaluated_together()
    assert sizes == [3], "a cell ends where a network fails"
    assert [(outcome.job.repeat, outcome.error is None) for outcome in outcomes] == [(0, True), (2, True), (1, False)]
    assert "ended with a loss of nan; lower --lr" in outcomes[-1].error

"""Training on soft labels against its formulas written out in float64, and what asks for it in vain."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small import coloured_source, small_selection
from synthetic_sets import with_soft_labels

from atom_plugin.datasets import Split
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.errors import ConfigError
from atom_plugin.evaluation import Subject, plan_jobs, run_jobs, summarise_networks
from atom_plugin.evaluation.recorded import recorded_evaluations
from atom_plugin.evaluation.results_file import NetworkResultsFile
from atom_plugin.evaluation.tables import as_csv, evaluation_table
from atom_plugin.evaluation.training import TrainConfig, TrainingRun, train, train_on_real
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.store.soft_labels import KINDS, SoftLabels
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.augmentation import Augmentation
from atom_plugin.transforms.cutmix import draw_box

NETWORK = ConvNetConfig(width=8, depth=2)
IN_DOUBLE = TrainingRun(dtype=torch.float64)
PLAIN = TrainConfig(epochs=3, batch_size=5, lr=0.05, augmentation="none")


def a_set(**options) -> SyntheticSet:
    return selected_set(small_selection(**{"ipc": 4, **options}), coloured_source())


def weights(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([each.detach().double().flatten() for each in network.parameters()])


def literal_targets(soft: SoftLabels, temperature: float) -> torch.Tensor:
    """Row by row: exp(v / T) over their sum, the probabilities' powers over theirs, or the scores."""
    rows = []
    for row in soft.values.double().tolist():
        if soft.kind == "scores":
            rows.append(row)
            continue
        powers = [v ** (1 / temperature) if soft.kind == "probabilities" else torch.e ** (v / temperature) for v in row]
        rows.append([power / sum(powers) for power in powers])
    return torch.tensor(rows, dtype=torch.float64)


def literal_loss(logits: torch.Tensor, targets: torch.Tensor, config: TrainConfig, kind: str) -> torch.Tensor:
    if kind == "scores":
        return sum((logits[n, k] - targets[n, k]) ** 2 for n in range(len(logits)) for k in range(3)) / logits.numel()
    smoothed = (1 - config.label_smoothing) * targets + config.label_smoothing / 3
    log_sums = [torch.log(sum(torch.exp(logits[n, k]) for k in range(3))) for n in range(len(logits))]
    return -sum(smoothed[n, k] * (logits[n, k] - log_sums[n]) for n in range(len(logits)) for k in range(3)) / len(
        logits
    )


def literal_training(held: SyntheticSet, config: TrainConfig, seed: int) -> torch.Tensor:
    """The weights after SGD with momentum and weight decay on the written-out loss, every batch cut and mixed where asked."""
    network = NETWORK.build((3, 8, 8), 3, generator=generator_for(seed, "network")).double()
    images, targets = held.images.double(), literal_targets(held.soft_labels, config.temperature)
    velocity = [torch.zeros_like(each) for each in network.parameters()]
    generator = generator_for(seed, "train")
    for epoch in range(config.epochs):
        rate = config.lr * (0.1 if epoch >= config.epochs // 2 else 1)
        for chosen in torch.randperm(len(held), generator=generator).split(config.batch_size):
            shown, wanted = images[chosen], targets[chosen]
            Augmentation(strategy="none").draw(len(chosen), generator)  # is drawn, whatever comes of it
            if config.cutmix:
                top, bottom, left, right = draw_box(config.cutmix, (8, 8), generator).tolist()
                share = (bottom - top) * (right - left) / 64
                shown, wanted = shown.clone(), (1 - share) * wanted + share * wanted.roll(1, 0)
                shown[:, :, top:bottom, left:right] = images[chosen].roll(1, 0)[:, :, top:bottom, left:right]
            loss = literal_loss(network(shown), wanted, config, held.soft_labels.kind)
            gradients = torch.autograd.grad(loss, list(network.parameters()))
            with torch.no_grad():
                for each, buffer, gradient in zip(network.parameters(), velocity, gradients, strict=True):
                    buffer.mul_(config.momentum).add_(gradient + config.weight_decay * each)
                    each.sub_(rate * buffer)
    return weights(network)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("probabilities", {}),
        ("logits", {}),
        ("scores", {}),
        ("probabilities", {"temperature": 2.0}),
        ("logits", {"temperature": 0.5}),
        ("logits", {"cutmix": 1.0}),
        ("scores", {"cutmix": 1.0}),
        ("probabilities", {"label_smoothing": 0.2, "cutmix": 0.5}),
    ],
)
def test_weights_are_those_of_the_written_out_loss(kind, options):
    held, config = with_soft_labels(a_set(), kind), replace(PLAIN, **options)
    trained = weights(train(held, NETWORK, config, seed=3, run=IN_DOUBLE))
    # train takes the loss of float32 logits.
    torch.testing.assert_close(trained, literal_training(held, config, 3), rtol=0, atol=1e-6)
    hard = weights(train(held, NETWORK, replace(config, labels="hard", temperature=1.0), seed=3, run=IN_DOUBLE))
    assert (trained - hard).abs().max() > 1e-3


def test_probabilities_of_one_class_train_as_the_class_does():
    held = a_set()
    sure = replace(held, soft_labels=SoftLabels(values=held.targets(), kind="probabilities"))
    one, other = (weights(train(each, NETWORK, PLAIN, seed=0, run=IN_DOUBLE)) for each in (held, sure))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_hard_labels_leave_soft_ones_alone():
    held = a_set()
    hard = train(with_soft_labels(held, "logits"), NETWORK, replace(PLAIN, labels="hard"), seed=0)
    assert torch.equal(weights(hard), weights(train(held, NETWORK, PLAIN, seed=0)))


@pytest.mark.parametrize("augmentation", ["none", "randaugment"])
def test_tiles_of_a_packed_set_have_their_images_labels(augmentation):
    packed = with_soft_labels(a_set(ipc=2, factor=2, storage="uint8"), "logits")
    config = replace(PLAIN, augmentation=augmentation)
    one, other = (weights(train(each, NETWORK, config, seed=0)) for each in (packed, packed.decoded()))
    if augmentation == "none":
        assert torch.equal(one, other)
    else:  # pictures of 256 levels are drawn from the two
        torch.testing.assert_close(one, other, rtol=0, atol=1e-2)


def test_the_learned_learning_rate_is_taken_where_asked_for():
    held = replace(a_set(), learned_lr=0.02)
    taken = weights(train(held, NETWORK, replace(PLAIN, learned_lr=True), seed=0))
    assert torch.equal(taken, weights(train(held, NETWORK, replace(PLAIN, lr=0.02), seed=0)))
    assert not torch.equal(taken, weights(train(held, NETWORK, PLAIN, seed=0)))
    with pytest.raises(
        ConfigError, match="learned_lr takes the set's own learning rate, but the set has none; give lr"
    ):
        train(a_set(), NETWORK, replace(PLAIN, learned_lr=True), seed=0)


def test_real_images_have_classes_alone():
    data, held = coloured_source(), with_soft_labels(a_set(), "scores")
    few = Split(images=data.train.images[:6], labels=data.train.labels[:6])
    asked = replace(PLAIN, learned_lr=True, label_smoothing=0.1)
    one = train_on_real(few, held, NETWORK, asked, seed=0)
    other = train_on_real(few, replace(held, soft_labels=None), NETWORK, asked.on_classes(), seed=0)
    assert torch.equal(weights(one), weights(other))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": "soft-ish"}, "labels must be one of soft, hard, not 'soft-ish'"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"labels": "hard", "temperature": 2.0}, r"temperature \(2\) has no effect on labels hard"),
    ],
)
def test_impossible_choices_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        TrainConfig(**options)


@pytest.mark.parametrize(("name", "value"), [("temperature", 2.0), ("label_smoothing", 0.1)])
def test_scores_have_no_temperature_and_are_not_smoothed(name, value):
    with pytest.raises(ConfigError, match=f"found {name} {value:g}, but the set's soft labels are scores"):
        train(with_soft_labels(a_set(), "scores"), NETWORK, replace(PLAIN, **{name: value}), seed=0)


def subject(held: SyntheticSet, name: str) -> Subject:
    data = coloured_source()
    return Subject(name=name, synthetic_set=held, test=data.test, tested_on=data.fingerprint)


def jobs_of(held: SyntheticSet, config: TrainConfig, name: str = "set.h5"):
    return plan_jobs([subject(held, name)], ["convnet"], config, repeats=1)


@pytest.mark.parametrize("options", [{"labels": "hard"}, {"temperature": 2.0}])
def test_choices_of_soft_labels_need_some(options):
    with pytest.raises(ConfigError, match=r"has no effect: none of the sets has soft labels; leave it out"):
        jobs_of(a_set(), replace(PLAIN, **options))


def test_each_way_is_a_result_of_its_own_and_older_ones_are_found():
    held = with_soft_labels(a_set(), "logits")
    rated = replace(a_set(), learned_lr=0.02)
    trainings = [PLAIN, replace(PLAIN, labels="hard"), replace(PLAIN, temperature=2.0)]
    jobs = [job for each in trainings for job in jobs_of(held, each)] + jobs_of(a_set(), PLAIN)
    jobs += jobs_of(rated, replace(PLAIN, learned_lr=True)) + jobs_of(
        replace(rated, learned_lr=0.01), replace(PLAIN, learned_lr=True)
    )
    assert len({job.key for job in jobs}) == len(jobs)
    # What no set of before had is in no identity of before.
    assert not {"labels", "temperature", "learned_lr"} & jobs_of(a_set(), PLAIN)[0].identity["training"].keys()
    assert jobs_of(rated, PLAIN)[0].key == jobs_of(a_set(), PLAIN)[0].key


def test_results_say_what_was_learned(tmp_path):
    held = with_soft_labels(a_set(), "logits")
    trainings = [replace(PLAIN, temperature=2.0), replace(PLAIN, labels="hard")]
    jobs = plan_jobs([subject(held, "set.h5")], ["convnet"], trainings, repeats=1)
    file = NetworkResultsFile(tmp_path / "results.jsonl")
    outcomes = list(run_jobs(jobs, device=torch.device("cpu")))
    for outcome in outcomes:
        file.append(outcome)
    evaluations = summarise_networks(outcomes)
    assert [each.labels for each in evaluations] == ["soft logits at temperature 2", "hard"]
    assert "soft logits at temperature 2" in evaluation_table(evaluations)
    assert "labels" not in evaluation_table(evaluations[1:])
    assert ",soft logits at temperature 2," in as_csv(evaluations)
    assert [each.labels for each in recorded_evaluations(tmp_path / "results.jsonl")] == [
        each.labels for each in evaluations
    ]
    again = NetworkResultsFile(tmp_path / "results.jsonl")
    assert all(again.accuracy_of(job) is not None for job in jobs)
    again.require_budgets(jobs)
    with pytest.raises(ConfigError, match=r"trained with temperature 2\.0, this evaluation asks for 1\.0"):
        again.require_budgets(jobs_of(held, PLAIN))


@pytest.mark.parametrize("kind", KINDS)
def test_loaders_give_soft_targets(tmp_path, kind):
    from atom_plugin import store

    held = with_soft_labels(a_set(ipc=2, factor=2), kind)
    held.save(tmp_path / "set.h5")
    expected = held.decoded().soft_labels.targets()
    _, targets = next(iter(held.dataloader(batch_size=100, shuffle=False, soft=True)))
    assert torch.equal(targets, expected)
    _, classes = next(iter(held.dataloader(batch_size=100, shuffle=False)))
    assert torch.equal(classes, held.decoded().labels)
    lazy = store.open_dataset(tmp_path / "set.h5")
    softened = lazy.with_soft_targets() if kind == "scores" else lazy.with_soft_targets(2.0)
    temperature = 1.0 if kind == "scores" else 2.0
    assert torch.equal(softened[5][1], held.decoded().soft_labels.targets(temperature)[5])
    assert lazy[5][1] == int(held.decoded().labels[5])
    with pytest.raises(ConfigError, match="the set has no soft labels"):
        a_set().dataloader(soft=True)

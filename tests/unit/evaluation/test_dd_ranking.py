import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import coloured_source, small_selection
from synthetic_sets import make_set

from atom_plugin.datasets import Split
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.errors import ConfigError, SourceError
from atom_plugin.evaluation import dd_ranking, evaluate, network_of
from atom_plugin.evaluation.dd_ranking import (
    FullData,
    ScoreConfig,
    Scores,
    label_robust_score,
    random_counterpart,
    score,
)
from atom_plugin.evaluation.training import TrainConfig, train, train_on_real
from atom_plugin.transforms.preprocessing import Preprocessing

QUICK = TrainConfig(epochs=3, batch_size=7)
KNOWN = FullData(accuracies=(0.9,))
SHARE = st.floats(-1, 1)


def real_set(ipc: int = 3, **overrides):
    data = coloured_source()
    return data, selected_set(small_selection(ipc=ipc, **overrides), data)


def fixed(**changes) -> Scores:
    data, chosen = real_set()
    values = {
        "full": FullData(accuracies=(0.8, 0.9), epochs=7),
        "synthetic": (0.5, 0.6),
        "random": (0.4, 0.3),
        "weight": 0.25,
        "training": QUICK,
        "network": network_of(chosen),
        "precision": "bfloat16",
        "images": len(chosen),
        "test_images": len(data.test),
    }
    return Scores(**{**values, **changes})


@pytest.mark.parametrize(
    ("hlr", "ior", "weight", "expected"),
    [
        (-1.0, 1.0, 0.5, 1.0),
        (1.0, -1.0, 0.5, 0.0),
        (0.0, 0.0, 0.5, 0.26894142136999512),  # 1 / (1 + e)
        (0.3573, -0.0289, 0.5, 0.19423060977203777),
        (0.4, 0.2, 1.0, (math.exp(0.2) - math.exp(-1)) / (math.exp(1) - math.exp(-1))),
        (0.4, 0.2, 0.0, (math.exp(-0.4) - math.exp(-1)) / (math.exp(1) - math.exp(-1))),
    ],
)
def test_lrs_is_the_paper_s_formula(hlr, ior, weight, expected):
    assert label_robust_score(hlr, ior, weight=weight) == pytest.approx(expected, abs=1e-15)


@given(SHARE, SHARE, st.floats(0, 1))
def test_lrs_lies_in_0_to_1_and_rewards_recovery_and_improvement(hlr, ior, weight):
    value = label_robust_score(hlr, ior, weight=weight)
    assert -1e-12 <= value <= 1 + 1e-12
    assert label_robust_score((hlr - 1) / 2, ior, weight=weight) >= value - 1e-12
    assert label_robust_score(hlr, (ior + 1) / 2, weight=weight) >= value - 1e-12


@pytest.mark.parametrize(
    ("hlr", "ior", "weight"), [(35.7, -2.9, 0.5), (0.3, 2.0, 0.5), (0.3, math.nan, 0.5), (0.3, 0.1, 1.5)]
)
def test_percentages_and_odd_weights_are_refused(hlr, ior, weight):
    with pytest.raises(ConfigError, match=r"fractions in \[-1, 1\]|weight of IOR"):
        label_robust_score(hlr, ior, weight=weight)


@pytest.mark.parametrize("accuracies", [(), (86.0,), (0.5, -0.1), (math.nan,)])
def test_accuracies_on_full_data_are_shares(accuracies):
    with pytest.raises(ConfigError, match="divide percentages by 100"):
        FullData(accuracies=accuracies)


def test_scores_are_taken_repeat_by_repeat():
    result = fixed()
    assert result.hlr == pytest.approx((0.35, 0.25))  # against the mean of both networks on full data
    assert result.ior == pytest.approx((0.1, 0.3))
    exponents = (0.25 * 0.1 - 0.75 * 0.35, 0.25 * 0.3 - 0.75 * 0.25)
    expected = [(math.exp(a) - math.exp(-1)) / (math.e - math.exp(-1)) for a in exponents]
    assert result.lrs == pytest.approx(expected)
    written = json.loads(json.dumps(result.to_json()))
    assert written["lrs"]["values"] == pytest.approx(expected)
    assert written["ior"]["mean"] == pytest.approx(0.2)
    assert written["ior"]["std"] == pytest.approx(math.sqrt(0.02))  # of the sample: n - 1
    assert (written["ior"]["n"], written["full"]["n"], written["full"]["epochs"]) == (2, 2, 7)
    assert (written["training"]["epochs"], written["precision"]) == (3, "bfloat16")


def test_one_line_says_what_was_measured_and_how_often():
    first, second, third = fixed().describe().splitlines()
    assert "HLR 30.00 ± 7.07 points, IOR 20.00 ± 14.14 points (n = 2, weight 0.25)" in first
    assert second.endswith("all real 85.00 ± 7.07 % (2 networks of 7 epochs)")
    assert "9 images, instance normalisation, 3 epochs; last epoch, 18 test images, precision bfloat16" in third
    single = fixed(full=KNOWN, synthetic=(0.5,), random=(0.4,)).describe()
    assert "±" not in single
    assert "all real 90.00 % (given)" in single


def scored(synthetic_set, data, **options) -> Scores:
    return score(synthetic_set, data, ScoreConfig(training=QUICK, device="cpu", precision="float32", **options))


def test_accuracies_of_the_set_are_those_that_evaluate_reports():
    data, chosen = real_set()
    result = scored(chosen, data, full=KNOWN, repeats=3, seed=2)
    assert (
        result.synthetic
        == evaluate(chosen, data.test, QUICK, repeats=3, seed=2, device="cpu", precision="float32").accuracies
    )
    assert (len(result.random), result.full, result.images, result.test_images) == (3, KNOWN, 9, 18)
    assert result == scored(chosen, data, full=KNOWN, repeats=3, seed=2)
    assert result.network.normalisation == "instance"
    other = replace(network_of(chosen), normalisation="batch")
    assert scored(chosen, data, full=KNOWN, network=other, repeats=1).network == other


def test_the_random_baseline_has_the_set_s_budget(monkeypatch):
    data, chosen = real_set()
    seen = []

    def noting(training_set, network, config, *, seed, **others):
        seen.append((training_set, network, config, seed))
        return train(training_set, network, config, seed=seed, **others)

    monkeypatch.setattr(dd_ranking, "train", noting)
    scored(chosen, data, full=KNOWN, repeats=2)
    assert [entry[1:] for entry in seen[:2]] == [entry[1:] for entry in seen[2:]]  # network, recipe, seed
    assert [entry[0] is chosen for entry in seen] == [True, True, False, False]
    assert all(len(entry[0]) == len(chosen) for entry in seen)
    assert all(entry[0].preprocessing.matches(chosen.preprocessing) for entry in seen)


def test_the_full_data_are_trained_on_by_the_same_recipe_for_their_own_epochs():
    data, chosen = real_set()
    ticks: list[int] = []
    config = ScoreConfig(
        training=TrainConfig(epochs=2, lr=0.05),
        repeats=1,
        full_epochs=40,
        full_repeats=2,
        device="cpu",
        precision="float32",
    )
    result = score(chosen, data, config, on_epoch=lambda: ticks.append(1))
    assert len(ticks) == 2 + 2 + 2 * 40
    assert result.full.epochs == 40
    assert len(result.full.accuracies) == 2
    assert min(result.full.accuracies) > 0.9 > max(result.synthetic)


@pytest.mark.parametrize("zca", [None, 0.1])
def test_every_repeat_draws_other_real_images_of_the_set_s_classes(zca):
    data, chosen = real_set(zca_eps=zca)
    uneven = replace(chosen, images=chosen.images[1:7], labels=chosen.labels[1:7])  # 2, 3 and 1 of the classes
    draws = [random_counterpart(uneven, data, seed=0, repeat=repeat) for repeat in range(4)]
    pixels = data.train.images.float() / 255
    for draw in draws:
        assert torch.equal(draw.labels, uneven.labels)
        distances = torch.cdist(draw.true_colour().flatten(1).double(), pixels.flatten(1).double())
        nearest = distances.argmin(1)
        assert distances.min(1).values.max() < 1e-4
        assert torch.equal(data.train.labels[nearest], draw.labels)
        assert len(set(nearest.tolist())) == len(draw)
    assert len({draw.images.numpy().tobytes() for draw in draws}) == 4
    again = random_counterpart(uneven, data, seed=0, repeat=2)
    assert torch.equal(again.images, draws[2].images)
    assert not torch.equal(random_counterpart(uneven, data, seed=1, repeat=2).images, draws[2].images)


def test_too_few_real_images_are_found_before_any_training(monkeypatch):
    data, chosen = real_set()
    monkeypatch.setattr(dd_ranking, "train", None)
    few = replace(data, train=Split(images=data.train.images[10:], labels=data.train.labels[10:]))
    with pytest.raises(SourceError, match="class 'class 0' has 2 image"):
        scored(chosen, few, repeats=1)
    empty = make_set(classes=3, ipc=0, shape=(3, 8, 8))
    with pytest.raises(ConfigError, match="without images"):
        scored(empty, data, repeats=1)


@pytest.mark.parametrize("wrong", [{"weight": 1.5}, {"repeats": 0}, {"full_repeats": 0}, {"full_epochs": 0}])
def test_impossible_numbers_are_found_before_any_training(wrong, monkeypatch):
    data, chosen = real_set()
    monkeypatch.setattr(dd_ranking, "train", None)
    with pytest.raises(ConfigError):
        scored(chosen, data, **wrong)


@pytest.mark.parametrize("zca", [None, 0.1])
def test_training_on_a_stream_of_real_images_is_training_on_all_of_them_held(zca, monkeypatch):
    data, chosen = real_set(zca_eps=zca)
    prepare, largest = Preprocessing.forward, []

    def noting(self, images):
        largest.append(len(images))
        return prepare(self, images)

    whole = replace(chosen, images=prepare(chosen.preprocessing, data.train.images), labels=data.train.labels)
    held = train(whole, network_of(chosen), QUICK, seed=5)
    monkeypatch.setattr(Preprocessing, "forward", noting)
    streamed = train_on_real(data.train, chosen, network_of(chosen), QUICK, seed=5)
    assert max(largest) == QUICK.batch_size < len(data.train)
    for mine, theirs in zip(streamed.parameters(), held.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_single_epoch_has_the_full_learning_rate(monkeypatch):
    data, chosen = real_set()
    rates: list[float] = []
    plain = torch.optim.SGD.step

    def noting(self, *args):
        rates.append(self.param_groups[0]["lr"])
        return plain(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", noting)
    one = TrainConfig(epochs=1, batch_size=18)
    train_on_real(data.train, chosen, network_of(chosen), one, seed=0)
    assert rates == [0.01, 0.01]

"""Training budgets by name, and what their schedules do to the learning rate."""

import math
from dataclasses import asdict, fields

import pytest
import torch
from small import coloured_source, small_selection

from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.errors import ConfigError
from atom_plugin.evaluation.training import accuracy, train, train_on_real
from atom_plugin.evaluation.training_recipes import RECIPES, TrainConfig
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.transforms.augmentation import DEFAULT_STRATEGY

CPU = torch.device("cpu")
NETWORK = ConvNetConfig(width=8, depth=2)


def rates(config: TrainConfig) -> list[float]:
    """The learning rate of every epoch."""
    optimizer = config.build_optimizer(torch.nn.Linear(1, 1))
    schedule = config.build_schedule(optimizer)
    found = []
    for _ in range(config.epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_recipes_are_the_published_budgets():
    budgets = {name: TrainConfig.from_recipe(name) for name in RECIPES}
    assert {name: (c.epochs, c.batch_size) for name, c in budgets.items()} == {
        "standard": (800, 256),
        "dm": (1000, 256),
        "datadam-code": (1800, 64),
        "datadam-paper": (300, 256),
        "packed": (1500, 64),
        "mtt-experts": (50, 256),
        "search": (200, 64),
        "modern": (1000, 128),
    }
    assert budgets["standard"] == TrainConfig()
    for name in ("standard", "dm", "datadam-code", "datadam-paper"):
        config = budgets[name]
        assert (config.optimizer, config.lr, config.momentum, config.weight_decay) == ("sgd", 0.01, 0.9, 5e-4)
        assert (config.label_smoothing, config.cutmix, config.augmentation) == (0, 0, DEFAULT_STRATEGY)
    packed = budgets["packed"]
    assert (packed.optimizer, packed.lr, packed.momentum, packed.weight_decay) == ("sgd", 0.01, 0.9, 5e-4)
    assert (packed.schedule, packed.cutmix, packed.augmentation) == ("multistep", 0.5, "color_crop_flip_scale_rotate")
    experts = budgets["mtt-experts"]
    assert (experts.lr, experts.momentum, experts.weight_decay, experts.schedule) == (0.01, 0.0, 0.0, "constant")
    assert all(config.recipe == name for name, config in budgets.items())


def test_explicit_values_go_before_the_recipe():
    config = TrainConfig.from_recipe("modern", epochs=7, lr=0.1)
    assert (config.recipe, config.epochs, config.lr, config.optimizer) == ("modern", 7, 0.1, "adamw")
    assert isinstance(config.build_optimizer(torch.nn.Linear(1, 1)), torch.optim.AdamW)


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'modern'"):
        TrainConfig.from_recipe("moderne")


def test_constant_keeps_the_rate():
    assert rates(TrainConfig.from_recipe("mtt-experts", epochs=4, lr=0.5)) == [0.5] * 4


def test_step_halves_every_fifteen_epochs():
    found = rates(TrainConfig.from_recipe("datadam-paper", epochs=40))
    assert found == pytest.approx([0.01 * 0.5 ** (epoch // 15) for epoch in range(40)])


@pytest.mark.parametrize(("epochs", "falls"), [(12, (8, 10)), (1500, (1000, 1250)), (1000, (666, 833)), (1, (1, 1))])
def test_multistep_falls_to_a_fifth_at_two_thirds_and_at_five_sixths(epochs, falls):
    found = rates(TrainConfig.from_recipe("packed", epochs=epochs))
    assert found == pytest.approx([0.01 * 0.2 ** sum(epoch >= fall for fall in falls) for epoch in range(epochs)])


@pytest.mark.parametrize(("images", "steps"), [(64, 1500), (65, 3000), (100, 3000), (10, 1500)])
def test_steps_count_the_last_short_batch(images, steps):
    assert TrainConfig.from_recipe("packed").steps(images) == steps


def test_cosine_rises_then_falls_and_never_stands_at_zero():
    found = rates(TrainConfig(schedule="cosine", warmup=0.2, lr=1.0, epochs=20))
    assert found[:5] == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5, 1.0])
    expected = [0.5 * (1 + math.cos(math.pi * epoch / 16)) for epoch in range(16)]
    assert found[4:] == pytest.approx(expected)
    assert min(rates(TrainConfig(schedule="cosine", warmup=0.9, epochs=1))) > 0


@pytest.mark.parametrize(
    "options",
    [
        *({"epochs": 0}, {"batch_size": 0}, {"step_epochs": 0}, {"lr": 0.0}, {"step_factor": 0.0}, {"cutmix": -0.1}),
        *({"cutmix": 1.1}, {"cutmix": math.nan}),
        *({"weight_decay": -1.0}, {"momentum": 1.0}, {"warmup": 1.0}, {"label_smoothing": 1.0}, {"lr": math.nan}),
        *({"optimizer": "lion"}, {"schedule": "plateau"}, {"augmentation": "blur"}),
    ],
)
def test_impossible_values_are_refused_by_name(options):
    (name,) = options
    with pytest.raises(ConfigError, match=name):
        TrainConfig(**options)


def test_siamese_is_another_spelling_of_the_whole_strategy():
    assert TrainConfig(augmentation="siamese") == TrainConfig()


def test_every_field_is_plain_json():
    assert {type(value) for value in asdict(TrainConfig.from_recipe("modern")).values()} == {str, int, float, bool}
    assert {field.name for field in fields(TrainConfig)} >= set(RECIPES["modern"])


def test_the_modern_recipe_learns_and_repeats_by_seed():
    data = coloured_source()
    chosen = selected_set(small_selection(ipc=8), data)
    config = TrainConfig.from_recipe("modern", epochs=25, lr=0.02, augmentation="none")
    state = torch.random.get_rng_state()
    trained = [train(chosen, NETWORK, config, seed=3) for _ in range(2)]
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(trained[0].classifier.weight, trained[1].classifier.weight)
    assert accuracy(trained[0], chosen.preprocessing, data.test, device=CPU) > 0.6


@pytest.mark.parametrize("real", [False, True])
def test_half_of_the_batches_are_mixed_and_their_labels_by_the_share_of_the_box(monkeypatch, real):
    data = coloured_source()
    chosen = selected_set(small_selection(ipc=4), data)
    seen = []
    plain = torch.nn.functional.cross_entropy

    def noting(logits, targets, **options):
        seen.append(targets)
        return plain(logits, targets, **options)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", noting)
    config = TrainConfig(epochs=60, cutmix=0.5)
    train_on_real(data.train, chosen, NETWORK, config, seed=0) if real else train(chosen, NETWORK, config, seed=0)
    assert all(torch.allclose(targets.sum(1), torch.ones(len(targets))) for targets in seen)
    mixed = sum(bool(((targets > 0.01) & (targets < 0.99)).any()) for targets in seen)
    assert 0.3 * len(seen) < mixed < 0.6 * len(seen)  # some boxes lie over images of one class, or have no area


class Dropping(torch.nn.Module):
    """Half of its features are dropped in training."""

    def __init__(self, generator):
        super().__init__()
        self.classifier = torch.nn.Linear(3 * 8 * 8, 3)
        with torch.no_grad():
            self.classifier.weight.normal_(generator=generator)
            self.classifier.bias.zero_()

    def build(self, image_shape, classes, *, generator=None):
        return Dropping(generator)

    def forward(self, images):
        return self.classifier(torch.nn.functional.dropout(images.flatten(1), 0.5, self.training))


@pytest.mark.parametrize("real", [False, True])
def test_dropout_draws_from_the_seed_and_leaves_the_global_state(real):
    data = coloured_source()
    chosen = selected_set(small_selection(ipc=2), data)
    config = TrainConfig(epochs=2)

    def weights(seed):
        torch.rand(seed + 1)  # whatever was drawn before
        builder = Dropping(torch.Generator())
        trained = train_on_real(data.train, chosen, builder, config, seed=5) if real else None
        return (trained or train(chosen, builder, config, seed=5)).classifier.weight

    assert torch.equal(weights(0), weights(1))

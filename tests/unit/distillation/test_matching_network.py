"""The course of the network through a run: drawn, kept, trained in between, taken from a pool; and all of it resumed."""

import copy
import io
from dataclasses import replace

import pytest
import stopped
import torch
from small import coloured_source, small_config
from torch.nn import functional as F

from atom_plugin.distillation.checkpoint import Checkpoint
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.distiller import Distiller
from atom_plugin.distillation.loop import distill
from atom_plugin.errors import ConfigError, DivergenceError
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.runtime.randomness import generator_for

COURSES = {
    "kept": {"inner_loop": 4},
    "trained between": {"inner_loop": 3, "network_epochs": 2, "network_lr": 0.05},
    "pool": {"network_state": "trained:1", "network_pool": 2},
    "pool, trained between": {"network_state": "trained:1", "inner_loop": 4, "network_epochs": 1},
}


def parameters(distiller):
    return torch.cat([p.detach().flatten() for p in distiller.network.parameters()])


def course(distiller, iterations):
    """The network that each of the next iterations matched under, then the one after them."""
    seen = []
    compare = distiller._matching.prepare

    def prepare(iteration, generator):
        compare(iteration, generator)
        seen.append(parameters(distiller))

    distiller._matching.prepare = prepare
    for _ in range(iterations):
        distiller.step()
    return seen


def test_a_network_serves_as_many_steps_as_asked():
    seen = course(Distiller(small_config(inner_loop=3), coloured_source(), device="cpu"), 6)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1], seen[2])
    assert not torch.equal(seen[2], seen[3])
    assert torch.equal(seen[3], seen[5])


def test_the_first_step_of_an_inner_loop_is_that_of_a_run_without_one():
    plain, looped = (Distiller(small_config(**o), coloured_source(), device="cpu") for o in ({}, {"inner_loop": 5}))
    assert plain.step() == looped.step()
    assert torch.equal(plain.images, looped.images)
    assert plain.step() != looped.step()


@pytest.mark.parametrize(("augmentation", "momentum"), [("none", None), ("flip_crop", None), ("none", 0.0)])
def test_training_between_steps_is_sgd_on_the_synthetic_images(augmentation, momentum):
    loop = {"inner_loop": 3, "network_epochs": 2, "network_lr": 0.05, "network_momentum": momentum}
    config = small_config(**loop, augmentation=augmentation)
    distiller = Distiller(config, coloured_source(), device="cpu")
    before = [parameters(distiller)]
    images = []
    for _ in range(2):
        distiller.step()
        images.append(distiller.images.detach().clone())
        before.append(parameters(distiller))
    network = config.network.build((3, 8, 8), 3)
    network.reset(generator_for(config.seed, "iteration", 0))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.5 if momentum is None else momentum)
    labels = torch.arange(3).repeat_interleave(2)
    for iteration in range(2):
        generator = generator_for(config.seed, "inner", iteration)
        for _ in range(2):
            order = torch.randperm(6, generator=generator)
            batch = distiller._draws.augmentation.per_sample(images[iteration][order], generator)
            optimizer.zero_grad()
            F.cross_entropy(network(batch), labels[order]).backward()
            optimizer.step()
        expected = torch.cat([p.detach().flatten() for p in network.parameters()])
        torch.testing.assert_close(before[iteration + 1], expected, rtol=1e-4, atol=1e-6)
    distiller.step()  # the last of its inner loop: no training for nothing
    assert torch.equal(parameters(distiller), before[2])
    assert all(not p.requires_grad and p.grad is None for p in distiller.network.parameters())


def test_training_lowers_the_loss_on_the_synthetic_images():
    config = small_config(inner_loop=2, network_epochs=60, network_lr=0.05, augmentation="none", iterations=2)
    distiller = Distiller(config, coloured_source(), device="cpu")
    distiller.step()
    network = config.network.build((3, 8, 8), 3)
    network.reset(generator_for(config.seed, "iteration", 0))
    labels = torch.arange(3).repeat_interleave(2)
    losses = [float(F.cross_entropy(net(distiller.images), labels).detach()) for net in (network, distiller.network)]
    assert losses[1] < 0.5 * losses[0]


def test_pool_networks_are_few_trained_and_addressed_by_the_seed():
    data = coloured_source(per_class=40)
    config = small_config(network_state="trained:30", network_pool=2, iterations=12, augmentation="none")
    distiller = Distiller(config, data, device="cpu")
    seen = course(distiller, 12)
    kinds = {tuple(network[:9].tolist()) for network in seen}
    assert len(kinds) == 2
    prepared = distiller.synthetic_set().preprocessing.forward(data.test.images)
    right = (distiller.network(prepared).argmax(1) == data.test.labels).float().mean()
    assert right > 0.8
    again = course(Distiller(config, data, device="cpu"), 3)
    assert all(torch.equal(a, b) for a, b in zip(again, seen[:3], strict=True))
    other = course(Distiller(replace(config, seed=1), data, device="cpu"), 1)
    assert tuple(other[0][:9].tolist()) not in kinds


def test_pool_networks_are_trained_when_first_drawn_and_only_then(monkeypatch):
    config = small_config(network_state="trained:1", network_pool=3, iterations=8)
    distiller = Distiller(config, coloured_source(), device="cpu")
    trained: list[int] = []
    train = distiller._matching._trained
    monkeypatch.setattr(distiller._matching, "_trained", lambda index: (trained.append(index), train(index))[1])
    for _ in range(8):
        distiller.step()
    assert len(trained) == len(set(trained)) <= 3


@pytest.mark.parametrize("matcher", ["atom", "dsa"])
@pytest.mark.parametrize("options", COURSES.values(), ids=COURSES)
@pytest.mark.parametrize("stop_after", [1, 3, 4, 6])
def test_stopped_and_resumed_anywhere_gives_the_same_bytes(tmp_path, stop_after, options, matcher):
    data = coloured_source(per_class=6)
    config = small_config(matcher=matcher, iterations=7, network={"width": 4, "normalisation": "batch"}, **options)
    key = (matcher, str(options))
    if key not in _WHOLE:
        _WHOLE[key] = distill(config, data, device="cpu").images.numpy().tobytes()
    path = tmp_path / "run.checkpoint"
    stopped.stop_after(stop_after, config, data, path)
    resumed = distill(config, data, device="cpu", checkpoint=path, resume=True)
    assert resumed.images.numpy().tobytes() == _WHOLE[key]


_WHOLE: dict[tuple[str, str], bytes] = {}


def test_a_checkpoint_holds_a_network_only_where_one_goes_on(tmp_path):
    distiller = Distiller(small_config(inner_loop=2, network_epochs=1), coloured_source(), device="cpu")
    distiller.step()
    state = distiller.state()
    assert set(state.network) == {"network", "optimizer", "calibrating", "accuracy"}
    state.save(tmp_path / "a.checkpoint")
    held = Checkpoint.load(tmp_path / "a.checkpoint").network
    assert torch.equal(held["network"]["classifier.weight"], distiller.network.classifier.weight)
    distiller.step()
    assert distiller.state().network is None


def test_checkpoints_of_the_release_before_are_read(tmp_path):
    path = tmp_path / "run.checkpoint"
    config = small_config()
    whole = distill(config, coloured_source(), device="cpu")
    distill(config, coloured_source(), device="cpu", checkpoint=path, checkpoint_every=4)
    state = torch.load(path, weights_only=True)
    del state["network"]
    for name in ("network_state", "inner_loop", "network_epochs"):
        del state["config"][name]
    buffer = io.BytesIO()
    torch.save({**state, "version": 1}, buffer)
    path.write_bytes(buffer.getvalue())
    resumed = distill(config, coloured_source(), device="cpu", checkpoint=path, resume=True)
    assert torch.equal(resumed.images, whole.images)


def test_training_that_blows_up_says_what_to_lower():
    config = small_config(
        inner_loop=3, network_epochs=30, network_lr=1e6, network={"normalisation": "none"}, augmentation="none"
    )
    with pytest.raises(DivergenceError, match="lower --network-lr"):
        Distiller(config, coloured_source(), device="cpu").step()


def test_the_defaults_are_a_random_network_per_step():
    config = small_config()
    assert (config.network_state, config.inner_loop, config.network_epochs) == ("random", 1, 0)
    distiller = Distiller(config, coloured_source(), device="cpu")
    seen = course(distiller, 2)
    for iteration, found in enumerate(seen):
        network = config.network.build((3, 8, 8), 3)
        network.reset(generator_for(config.seed, "iteration", iteration))
        assert torch.equal(found, torch.cat([p.detach().flatten() for p in network.parameters()]))
    assert distiller.state().network is None


def test_the_global_random_state_is_neither_used_nor_touched():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    config = small_config(**COURSES["pool, trained between"])
    first = distill(config, coloured_source(), device="cpu")
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first.images, distill(copy.deepcopy(config), coloured_source(), device="cpu").images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network_state": "trained"}, r"random or trained:EPOCHS \(trained:3\), not 'trained'"),
        ({"network_state": "trained:0"}, "network_state must be random or trained:EPOCHS"),
        ({"network_state": "trained:-1"}, "network_state must be random or trained:EPOCHS"),
        ({"network_state": "trained:1.5"}, "network_state must be random or trained:EPOCHS"),
        ({"network_state": "random:2"}, "network_state must be random or trained:EPOCHS"),
        ({"network_pool": 2}, "network_pool .2. is only for network_state trained:EPOCHS"),
        ({"network_state": "trained:1", "network_pool": 0}, "network_pool must be at least 1"),
        ({"inner_loop": 0}, "inner_loop must be at least 1"),
        ({"network_epochs": 3}, "has no effect with an inner_loop of 1"),
        ({"network_epochs": -1, "inner_loop": 2}, "network_epochs must be at least 0"),
        ({"network_lr": 0.0, "inner_loop": 2, "network_epochs": 1}, "network_lr must be above 0"),
        ({"network_pool": 5}, "network_pool .5. is only for"),  # the default, but given
        ({"network_lr": 0.01}, "network_lr .0.01. is only for"),
        ({"network_lr": 0.1}, "network_lr .0.1. is only for network_epochs"),
        ({"network_momentum": 0.1}, "network_momentum .0.1. is only for network_epochs"),
        (
            {"network_momentum": 1.0, "inner_loop": 2, "network_epochs": 1},
            "network_momentum must be at least 0 and below 1",
        ),
    ],
)
def test_impossible_courses_are_refused(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        small_config(**options)
    assert "\n" not in str(caught.value)


def test_the_course_survives_json():
    config = small_config(**COURSES["pool, trained between"])
    assert DistillConfig.from_json(config.to_json()).differences(config) == []
    assert config.to_json()["network_pool"] == config.pooled_networks == 5
    assert config.pretraining_epochs == 1
    assert isinstance(config.network, ConvNetConfig)

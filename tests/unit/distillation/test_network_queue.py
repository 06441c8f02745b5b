"""A queue of networks that are trained during a run, and calibration by their accuracy."""

from dataclasses import replace

import pytest
import stopped
import torch
from small import coloured_source, small_config
from torch.nn import functional as F

from atom_plugin.distillation import distiller, network_queue
from atom_plugin.distillation.capture import is_captured
from atom_plugin.distillation.checkpoint import Checkpoint
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.distiller import Distiller
from atom_plugin.distillation.engine.cuda_engine import CudaEngine
from atom_plugin.distillation.loop import distill
from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.evaluation.pool_training import PoolConfig, make_pool
from atom_plugin.evaluation.training import TrainConfig, TrainingRun
from atom_plugin.models.network_pool import flat_weights, set_weights
from atom_plugin.runtime.randomness import generator_for

DATA = coloured_source(per_class=40)
QUEUE = {"network_state": "queue", "queue_every": 2, "queue_length": 5}


def run_of(**options):
    return Distiller(small_config(**QUEUE, **options), DATA, device="cpu")


def networks_of(run):
    return run._matching._queue.networks


def test_it_begins_with_three_gets_one_every_so_often_and_lets_the_oldest_go():
    run, fresh, lengths = run_of(), [], []
    network = run.config.network.build((3, 8, 8), 3)
    for number in range(7):
        network.reset(generator_for(0, "queue", number))
        fresh.append(flat_weights(network))
    drawn = run_of()
    drawn._draws(0)
    assert all(torch.equal(held.weights, made) for held, made in zip(networks_of(drawn), fresh[:4], strict=True))
    for _ in range(6):
        run.step()
        lengths.append(len(networks_of(run)))
    assert lengths == [4, 4, 5, 5, 5, 5]
    run._draws(6)
    newest = networks_of(run)[-1]
    assert torch.equal(newest.weights, fresh[6])
    assert (newest.accuracy, float(newest.momentum.abs().sum())) == (0.0, 0.0)


def test_two_networks_train_as_written_out_and_go_on_with_their_momentum(monkeypatch):
    monkeypatch.setattr(network_queue, "_TRAINED", 4)  # all, so that each of them has had a turn before the second
    run = run_of(precision="float32", network={"normalisation": "instance"})
    networks, optimizers = [], []
    for number in range(4):
        network = run.config.network.build((3, 8, 8), 3, generator=generator_for(0, "queue", number))
        networks.append(network)
        optimizers.append(torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4))
    images = run.config.fit_preprocessing(DATA).forward(DATA.train.images)
    for iteration in range(2):
        run.step()
        generator = generator_for(0, "queue training", iteration)
        right = {}
        for place in torch.randperm(4, generator=generator).tolist():
            chosen = torch.randperm(120, generator=generator)
            rows = chosen[torch.arange(2560) % 120]
            right[place] = 0
            for part in torch.randperm(2560, generator=generator).split(256):
                logits = networks[place](images[rows[part]])
                labels = DATA.train.labels[rows[part]]
                right[place] += int((logits.argmax(1) == labels).sum())
                optimizers[place].zero_grad()
                F.cross_entropy(logits, labels).backward()
                optimizers[place].step()
        for place, held in enumerate(networks_of(run)):
            torch.testing.assert_close(held.weights, flat_weights(networks[place]), rtol=1e-3, atol=1e-4)
            assert held.accuracy == pytest.approx(right[place] / 2560, abs=0.01)
    assert min(held.accuracy for held in networks_of(run)) > 0.5  # of three classes: they learn


def test_two_of_them_train_in_each_iteration():
    run, drawn = run_of(iterations=3), run_of()
    drawn._draws(0)
    before = [held.weights for held in networks_of(drawn)]
    run.step()
    same = [torch.equal(held.weights, old) for held, old in zip(networks_of(run), before, strict=True)]
    assert same.count(False) == 2


def test_a_step_matches_under_one_of_them_and_calibrates_by_its_accuracy():
    calibrated = run_of(calibration=3.0, calibration_by_accuracy=True, augmentation="none")
    plain, constant = run_of(augmentation="none"), run_of(calibration=3.0, augmentation="none")
    used = []
    for _ in range(6):
        for run in (plain, constant):
            run.images.copy_(calibrated.images)
        images = calibrated.images.clone()
        losses = [run.step() for run in (plain, constant, calibrated)]
        matching = calibrated._matching
        network = calibrated.config.network.build((3, 8, 8), 3)
        set_weights(network, matching.calibrating)
        entropy = float(F.cross_entropy(network(images), torch.arange(3).repeat_interleave(2)).detach())
        assert losses[1] - losses[0] == pytest.approx(3 * entropy, rel=1e-3)
        assert losses[2] - losses[0] == pytest.approx(3 * matching.accuracy * entropy, rel=1e-3, abs=1e-3)
        used.append(matching.accuracy)
    assert len(set(used)) > 1 and max(used) > 0.5


@pytest.mark.parametrize(
    "options",
    [{}, {"calibration": 2.0, "calibration_by_accuracy": True}, {"nested": "1,2"}, {"matcher": "dsa"}, {"factor": 2}],
)
def test_stopped_and_resumed_anywhere_gives_the_same_bytes(tmp_path, options):
    config = small_config(**QUEUE, iterations=5, **options)
    stored = stopped.check_resumes(config, DATA, (1, 2, 4), tmp_path).provenance.config
    assert (stored["network_state"], stored["queue_every"], stored["queue_length"]) == ("queue", 2, 5)
    assert DistillConfig.from_json(stored).to_json() == stored


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda state: None, "no queue"),
        (lambda state: {**state, "made": 0}, "unknown age"),
        (lambda state: {**state, "made": 9}, "not float32"),
        (lambda state: {**state, "accuracies": [2.0] * 4}, "accuracies"),
        (lambda state: {**state, "accuracies": [0.5] * 3}, "3 networks, expected 4"),
        (lambda state: {**state, "weights": state["weights"][:, 1:]}, "weights of a queue"),
        (lambda state: {**state, "momenta": state["momenta"] / 0}, "momenta of a queue"),
        (lambda state: {**state, "momenta": state["momenta"].double()}, "momenta of a queue"),
        (lambda state: {name: state[name] for name in ("weights", "momenta")}, "no queue"),
    ],
)
def test_a_damaged_queue_is_refused(tmp_path, damage, told):
    run, path = run_of(), tmp_path / "run.checkpoint"
    run.step()
    state = run.state()
    state.network["queue"] = damage(state.network["queue"])
    state.save(path)
    with pytest.raises(StoreError, match=f"{told}.*delete it to start over") as caught:
        run_of().restore(Checkpoint.load(path), path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_the_engine_for_cuda_takes_the_plain_step(monkeypatch):
    monkeypatch.setattr(distiller, "choose_engine", lambda name, network, features, device: CudaEngine(network))
    run = run_of()
    assert not is_captured(run.config, run.engine, run.matcher, run.chunks)
    run.step()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({**QUEUE, "inner_loop": 2}, "found inner_loop 2; leave inner_loop out"),
        ({**QUEUE, "matching_model": "resnet10"}, "found matching_model resnet10"),
        ({**QUEUE, "cluster_every": 2}, "cluster_every .2. needs networks that can be drawn again"),
        ({"queue_every": 3}, "queue_every .3. is only for network_state queue"),
        ({"queue_length": 3}, "queue_length .3. is only for network_state queue"),
        ({"network_state": "queue", "queue_length": 0}, "queue_length must be at least 1"),
        ({"calibration_by_accuracy": True}, "calibration_by_accuracy .True. is only for a pool or network_state queue"),
        ({"calibration": 1.0}, "calibration .1.0. is only for a pool or network_state queue"),
    ],
)
def test_options_without_effect_are_refused(options, told):
    with pytest.raises(ConfigError, match=told):
        small_config(**options)


def test_a_queue_beside_a_pool_and_accuracy_without_calibration_are_refused():
    with pytest.raises(ConfigError, match="network_state 'queue' with a pool"):
        replace(small_config(**QUEUE), pool="x")
    with pytest.raises(ConfigError, match=r"calibration_by_accuracy has no effect without a calibration.*leave it out"):
        run_of(calibration_by_accuracy=True)


@pytest.mark.parametrize("matcher", ["dd", "frepo", "mmd-pixel"])
def test_matchers_without_a_drawn_network_are_refused(matcher):
    with pytest.raises(ConfigError, match=f"network_state .*no effect on the matcher '{matcher}'.*leave it out"):
        Distiller(small_config(matcher=matcher, network_state="queue"), DATA, device="cpu")


@pytest.mark.parametrize("inner_loop", [1, 2])
def test_a_pool_calibrates_by_the_accuracy_of_the_drawn_network(tmp_path, inner_loop):
    plain = small_config()
    chosen = PoolConfig(network=plain.network, training=TrainConfig(epochs=1, batch_size=16), networks=2, every=1)
    pool = make_pool(DATA, plain.fit_preprocessing(DATA), chosen, run=TrainingRun())
    pool.save(tmp_path / "two.pool")
    options = {"pool": str(tmp_path / "two.pool"), "iterations": 3, "inner_loop": inner_loop}
    by_accuracy = {**options, "calibration": 5.0, "calibration_by_accuracy": True}
    runs = [
        Distiller(small_config(**given), DATA, device="cpu")
        for given in (options, {**options, "calibration": 5.0}, by_accuracy)
    ]
    bare, full, weighed = (run.step() for run in runs)
    assert runs[2]._matching.accuracy in pool.accuracies
    assert weighed - bare == pytest.approx(runs[2]._matching.accuracy * (full - bare), rel=1e-4)
    config = small_config(**by_accuracy)
    stopped.stop_after(1, config, DATA, tmp_path / "run.checkpoint")
    resumed = distill(config, DATA, device="cpu", checkpoint=tmp_path / "run.checkpoint", resume=True)
    assert torch.equal(resumed.images, distill(config, DATA, device="cpu").images)

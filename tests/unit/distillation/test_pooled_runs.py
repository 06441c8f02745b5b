"""Runs that match under the networks of a pool, and calibrate under them."""

from dataclasses import replace

import pytest
import stopped
import torch
from small import coloured_source, small_config
from torch.nn import functional as F

from atom_plugin.distillation import distiller
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.distiller import Distiller
from atom_plugin.distillation.engine.calibration import Calibration
from atom_plugin.distillation.engine.cuda_engine import CudaEngine
from atom_plugin.distillation.loop import distill
from atom_plugin.errors import ConfigError
from atom_plugin.evaluation.pool_training import PoolConfig, make_pool
from atom_plugin.evaluation.training import TrainConfig, TrainingRun
from atom_plugin.models.network_pool import set_weights
from atom_plugin.runtime.randomness import generator_for

DATA = coloured_source(per_class=40)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    config = small_config()
    chosen = PoolConfig(network=config.network, training=TrainConfig(epochs=6, batch_size=16), networks=2, every=4)
    made = make_pool(DATA, config.fit_preprocessing(DATA), chosen, run=TrainingRun())
    path = tmp_path_factory.mktemp("pool") / "two.pool"
    made.save(path)
    return path, made


def test_it_keeps_the_start_every_so_many_epochs_and_the_end(pool):
    _, made = pool
    assert made.epochs == (0, 4, 6)
    for index in range(2):
        fresh = small_config().network.build((3, 8, 8), 3, generator=generator_for(index, "network"))
        assert torch.equal(
            torch.cat([each.detach().reshape(-1) for each in fresh.parameters()]), made.weights[index, 0]
        )
    assert min(made.accuracies) > 0.5  # of three classes: they have learnt


def losses_and_images(count=4, **overrides):
    run = Distiller(small_config(iterations=count, **overrides), DATA, device="cpu")
    with run.running():
        losses = [run.launch()() for _ in range(count)]
    return losses, run.images.clone()


@pytest.mark.parametrize(
    "options", [{}, {"network_state": "random-epoch"}, {"network_state": "around"}, {"calibration": 2.0, "factor": 2}]
)
def test_the_captured_step_equals_the_plain_one(monkeypatch, pool, options):
    given = {"pool": str(pool[0]), **options}
    plain, images = losses_and_images(**given)
    monkeypatch.setattr(distiller, "choose_engine", lambda name, network, features, device: CudaEngine(network))
    captured, same = losses_and_images(**given)
    assert captured == pytest.approx(plain, rel=1e-4)
    torch.testing.assert_close(same, images, rtol=1e-3, atol=1e-4)
    assert plain != losses_and_images()[0]


def test_stopped_and_resumed_gives_the_same_bytes(tmp_path, pool):
    config, path = small_config(pool=str(pool[0]), calibration=1.0, inner_loop=2), tmp_path / "run.checkpoint"
    whole = distill(config, DATA, device="cpu")
    stopped.stop_after(3, config, DATA, path)
    resumed = distill(config, DATA, device="cpu", checkpoint=path, resume=True)
    assert resumed.images.numpy().tobytes() == whole.images.numpy().tobytes()
    stored = whole.provenance.config
    assert (stored["pool"], stored["pool_sha256"], stored["network_state"]) == (
        "two.pool",
        pool[1].sha256,
        "interpolated",
    )
    assert DistillConfig.from_json(stored).to_json() == stored
    assert config.differences(DistillConfig.from_json(stored)) == []  # as a finished run is known again


def test_the_radius_reaches_the_draws_and_the_set(pool):
    given = {"pool": str(pool[0]), "network_state": "around"}
    assert losses_and_images(**given)[0] == losses_and_images(**given, network_radius=5.0)[0]
    assert losses_and_images(**given)[0] != losses_and_images(**given, network_radius=0.1)[0]
    stored = distill(small_config(**given, iterations=1), DATA, device="cpu").provenance.config
    assert stored["network_radius"] == 5.0
    assert DistillConfig.from_json(stored).to_json() == stored
    with pytest.raises(ConfigError, match=r"network_radius .2.0. is only for network_state around"):
        small_config(pool=str(pool[0]), network_radius=2.0)


def test_calibration_is_the_cross_entropy_of_all_classes_in_parts_too():
    network = small_config().network.build((3, 8, 8), 3, generator=generator_for(0, "network")).eval()
    images, labels = torch.randn(12, 3, 8, 8), torch.arange(3).repeat_interleave(4)
    calibration = Calibration(network, weight=0.7, classes=3)
    expected = 0.7 * F.cross_entropy(network(images), labels)
    torch.testing.assert_close(calibration.loss(images, groups=3), expected)
    parts = [calibration.loss(images[4 * k : 4 * k + 4], groups=1, first_class=k) for k in range(3)]
    torch.testing.assert_close(sum(parts), expected)


def test_calibrated_images_are_told_better_by_the_networks_of_the_pool(pool):
    def entropy(**options):
        made = distill(small_config(pool=str(pool[0]), iterations=20, image_lr=0.5, **options), DATA, device="cpu")
        network = small_config().network.build((3, 8, 8), 3)
        set_weights(network, pool[1].end(0))
        with torch.no_grad():
            return float(F.cross_entropy(network(made.images), made.labels))

    assert entropy(calibration=20.0) < entropy()


@pytest.mark.parametrize(
    "options",
    [
        {"network_state": "interpolated"},
        {"pool": "x", "network_state": "random"},
        {"pool": "x", "matching_model": "vgg11"},
    ],
)
def test_states_and_pools_that_do_not_go_together_are_refused(options):
    with pytest.raises(ConfigError, match="pool"):
        replace(small_config(), **{"network_state": "interpolated", **options})


def test_a_pool_of_other_images_is_refused(pool):
    with pytest.raises(ConfigError, match="source"):
        Distiller(small_config(pool=str(pool[0])), replace(DATA, fingerprint="else"), device="cpu")


def test_a_run_takes_the_networks_of_its_pool(pool):
    config = DistillConfig.from_recipe("best", ipc=2, image_shape=(3, 8, 8), pool=str(pool[0]))
    assert (config.network, config.network_state) == (pool[1].network, "interpolated")
    with pytest.raises(ConfigError, match="width 8, expected width 16"):
        Distiller(small_config(pool=str(pool[0]), network={"width": 16}), DATA, device="cpu")


@pytest.mark.parametrize("pooled", [False, True])
def test_the_best_recipe_packs_colour_images_and_calibrates_with_a_pool(pool, pooled):
    given = {"pool": str(pool[0])} if pooled else {}
    config = DistillConfig.from_recipe("best", ipc=10, image_shape=(3, 32, 32), **given)
    assert (config.factor, config.storage, config.zca_eps, config.image_lr) == (2, "uint8", None, 4.0)
    assert config.calibration == (100.0 if pooled else None)
    assert DistillConfig.from_recipe("best", ipc=10, image_shape=(3, 33, 32)).factor == 1
    assert DistillConfig.from_recipe("best", ipc=10, image_shape=(1, 8, 8)).factor == 1

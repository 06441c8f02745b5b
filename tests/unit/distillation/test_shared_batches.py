"""Steps under one network that share a real batch: what they compute, how seldom they look at real images, and resuming."""

import itertools

import pytest
import stopped
import torch
from small import coloured_source, small_config

from atom_plugin.distillation import distiller
from atom_plugin.distillation.capture import is_captured
from atom_plugin.distillation.checkpoint import Checkpoint
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.distiller import Distiller
from atom_plugin.distillation.engine.chunking import PassSize
from atom_plugin.distillation.engine.cuda_engine import CudaEngine
from atom_plugin.distillation.engine.plain_engine import PlainEngine
from atom_plugin.distillation.engine.step import compare
from atom_plugin.distillation.loop import distill
from atom_plugin.errors import ConfigError
from atom_plugin.evaluation.pool_training import PoolConfig, make_pool
from atom_plugin.evaluation.training import TrainConfig, TrainingRun
from atom_plugin.matchers import MATCHERS, make_matcher
from atom_plugin.runtime.randomness import generator_for
from atom_plugin.transforms.augmentation import Augmentation

DATA = coloured_source(per_class=40)
SHARED = {"inner_loop": 3, "share_real": True, "iterations": 7}
INSTANCE = {"normalisation": "instance"}


def one_class():
    """A budget for one class at a time."""
    network = small_config(network=INSTANCE).network.build((3, 8, 8), 3)
    engine = PlainEngine(network, network.features)
    return PassSize.of(make_matcher("atom"), engine, (3, 8, 8), real_batch=5, ipc=2).bytes_of(1)


FORMS = {
    "plain": {},
    "one class at a time": {"memory_budget": one_class(), "network": INSTANCE},
    "packed pixels": {"factor": 2, "storage": "uint8"},
    "nested": {"nested": "1,2"},
    "trained": {"network_state": "trained:1", "network_pool": 2},
    "whole embeddings": {"matcher": "dm", "matcher_options": {"kernel": "mixture"}},
    "bfloat16": {"precision": "bfloat16"},
}


def run_of(count, data=DATA, **options):
    run = Distiller(small_config(**options), data, device="cpu")
    with run.running():
        return [run.step() for _ in range(count)], run.images.clone(), run


@pytest.mark.parametrize("normalisation", ["batch", "instance"])
@pytest.mark.parametrize(("matcher", "options"), [("atom", {}), ("dm", {"kernel": "mixture"}), ("cafe", {})])
def test_every_step_is_the_one_written_out(normalisation, matcher, options):
    config = small_config(**SHARED, matcher=matcher, matcher_options=options, network={"normalisation": normalisation})
    run = Distiller(config, DATA, device="cpu")
    images, velocity = run.images.clone(), torch.zeros_like(run.images)
    network = config.network.build((3, 8, 8), 3).requires_grad_(False).train()
    engine, chosen = PlainEngine(network, network.features), make_matcher(matcher, options)
    for iteration in range(7):
        if iteration % 3 == 0:
            generator = generator_for(config.seed, "iteration", iteration)
            network.reset(generator)
            draw = Augmentation(strategy=config.augmentation).draw(3, generator)
            batch = run._batches.fetch(run._batches.drawn(range(iteration, iteration + 1))[0])
            real = draw.apply(batch.unflatten(0, (3, -1))).flatten(0, 1)
        leaf = images.clone().requires_grad_()
        synthetic = draw.apply(leaf.unflatten(0, (3, -1))).flatten(0, 1)
        loss = compare(chosen, engine, real, synthetic, groups=3)
        (gradient,) = torch.autograd.grad(loss, leaf)
        velocity = config.image_momentum * velocity + gradient
        images = images - config.image_lr * velocity
        assert run.step() == pytest.approx(float(loss.detach()), rel=1e-5)
        torch.testing.assert_close(run.images, images, rtol=1e-4, atol=1e-5)


def test_the_first_step_of_a_loop_is_that_of_a_run_without_sharing_and_the_second_is_not():
    (first, second), images, _ = run_of(2, inner_loop=2)
    (shared_first, shared_second), shared, _ = run_of(2, inner_loop=2, share_real=True)
    assert first == shared_first
    assert second != shared_second
    assert not torch.equal(images, shared)


@pytest.mark.parametrize(("options", "chunks"), [({}, 1), ({"memory_budget": one_class()}, 3)])
def test_real_images_are_fetched_and_passed_once_for_all_steps_of_a_loop(monkeypatch, options, chunks):
    run = Distiller(small_config(**SHARED, network=INSTANCE, **options), DATA, device="cpu")
    assert len(run.chunks.own_chunks) == chunks
    fetched, passed = [], []
    fetch, real = run._batches.fetch, run.engine.real
    monkeypatch.setattr(
        run._batches, "fetch", lambda rows, *, ahead: fetched.append((rows, ahead)) or fetch(rows, ahead=ahead)
    )
    monkeypatch.setattr(run.engine, "real", lambda *given, groups: passed.append(groups) or real(*given, groups=groups))
    for _ in range(7):
        run.step()
    assert len(fetched) == len(passed) == 3 * chunks
    for (_, ahead), (rows, _) in itertools.pairwise(fetched):
        assert torch.equal(ahead, rows)


def test_chunks_equal_one_pass():
    whole, images, _ = run_of(7, **SHARED, network=INSTANCE)
    chunked, same, _ = run_of(7, **SHARED, network=INSTANCE, memory_budget=one_class())
    assert chunked == pytest.approx(whole, rel=1e-4)
    torch.testing.assert_close(same, images, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_stopped_and_resumed_anywhere_gives_the_same_bytes(tmp_path, form, stop_after):
    config, path = small_config(**{**SHARED, **form}), tmp_path / "run.checkpoint"
    whole = distill(config, DATA, device="cpu")
    stopped.stop_after(stop_after, config, DATA, path)
    assert Checkpoint.load(path).network is None  # drawn again, and not kept
    resumed = distill(config, DATA, device="cpu", checkpoint=path, resume=True)
    assert resumed.images.numpy().tobytes() == whole.images.numpy().tobytes()
    stored = whole.provenance.config
    assert stored["share_real"] is True
    assert DistillConfig.from_json(stored).to_json() == stored


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    plain, path = small_config(), tmp_path_factory.mktemp("pool") / "two.pool"
    chosen = PoolConfig(network=plain.network, training=TrainConfig(epochs=2, batch_size=16), networks=2, every=1)
    make_pool(DATA, plain.fit_preprocessing(DATA), chosen, run=TrainingRun()).save(path)
    return str(path)


@pytest.mark.parametrize("state", ["interpolated", "random-epoch"])
def test_a_pool_with_calibration_is_resumed_too(tmp_path, pool, state):
    config = small_config(**SHARED, pool=pool, network_state=state, calibration=1.0)
    stopped.check_resumes(config, DATA, (4,), tmp_path)


def test_a_set_that_is_extended_keeps_its_images(tmp_path):
    distill(small_config(), DATA, device="cpu").save(tmp_path / "old.h5")
    made = distill(small_config(**SHARED, ipc=3, extend=str(tmp_path / "old.h5")), DATA, device="cpu")
    held = distill(small_config(), DATA, device="cpu")
    assert torch.equal(made.images.unflatten(0, (3, -1))[:, :2].flatten(0, 1), held.images)


def test_the_engine_for_cuda_takes_the_plain_step_and_equals_the_plain_engine(monkeypatch):
    losses, images, _ = run_of(7, **SHARED)
    monkeypatch.setattr(distiller, "choose_engine", lambda name, network, features, device: CudaEngine(network))
    other, same, run = run_of(7, **SHARED)
    assert not is_captured(run.config, run.engine, run.matcher, run.chunks)
    assert other == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(same, images, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "options", [{"share_real": True}, {"share_real": True, "inner_loop": 2, "network_epochs": 1}, {"share_real": False}]
)
def test_it_is_refused_where_it_has_no_effect(options):
    with pytest.raises(
        ConfigError, match=r"share_real .* is only for an inner_loop of 2 or more .*leave share_real out"
    ):
        small_config(**options)


def per_image(real, synthetic):
    """A matcher of features that is no difference of class means."""
    return (real.embedding[: len(synthetic.embedding)] - synthetic.embedding).square().sum()


@pytest.mark.parametrize("matcher", ["dc", "dsa", "dcc", "mmd-pixel", "dd", "per-image"])
def test_matchers_of_more_than_statistics_are_refused(monkeypatch, matcher):
    if matcher == "per-image":
        monkeypatch.setattr(MATCHERS, "_local", dict(MATCHERS._local))
        MATCHERS.register(matcher)(lambda: per_image)
    config = small_config(matcher=matcher, inner_loop=2, share_real=True)
    with pytest.raises(ConfigError, match=f"share_real has no effect on the matcher '{matcher}'") as caught:
        Distiller(config, DATA, device="cpu")
    assert "leave it out" in str(caught.value) and "\n" not in str(caught.value)

import math
from dataclasses import replace

import pytest
import stopped
import torch
from small import BFLOAT16_LOSS, BFLOAT16_WAY, coloured_source, save_untrained_pool, small_config

from atom_plugin.datasets import Split
from atom_plugin.distillation.checkpoint import Checkpoint
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.distiller import Distiller
from atom_plugin.distillation.loop import distill
from atom_plugin.distillation.recipes import RECIPES
from atom_plugin.errors import ConfigError, DivergenceError, SourceError, StoreError
from atom_plugin.matchers import MATCHERS, make_matcher
from atom_plugin.matchers.set_matcher import SetMatcher
from atom_plugin.models.convnet import NORMALISATIONS

_SCALES = {
    **{"atom": 10.0, "atom-channel": 10.0, "datadam": 10.0, "feature": 10.0},
    **{"dm": 1.0, "cafe": 0.05, "dc": 0.2, "dsa": 0.2, "dcc": 0.2, "mmd-pixel": 0.2},
}


def test_every_matcher_but_those_of_whole_sets_is_tried() -> None:
    others = {name for name in MATCHERS.names() if isinstance(make_matcher(name), SetMatcher)}
    assert set(_SCALES) == set(MATCHERS.names()) - others


@pytest.mark.parametrize("matcher", sorted(_SCALES))
def test_every_matcher_lowers_its_own_loss(matcher):
    data = coloured_source(per_class=30)
    config = small_config(
        matcher=matcher, iterations=40, real_batch=20, augmentation="none", image_init="noise", image_lr=1.0
    )
    config = replace(config, matcher_options={"loss_scale": _SCALES[matcher]})
    losses: list[float] = []
    result = distill(config, data, device="cpu", on_progress=lambda p: losses.append(p.loss))
    assert sum(losses[-10:]) < 0.85 * sum(losses[:10])
    assert result.images.shape == (6, 3, 8, 8)
    assert result.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert result.provenance.final_loss == losses[-1]


def test_same_seed_same_bytes_and_other_seed_other_images():
    data = coloured_source()
    first, again = (distill(small_config(), data, device="cpu") for _ in range(2))
    assert first.images.numpy().tobytes() == again.images.numpy().tobytes()
    assert first.provenance == again.provenance
    assert not torch.equal(first.images, distill(small_config(seed=1), data, device="cpu").images)


def test_the_global_random_state_is_neither_used_nor_touched():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = distill(small_config(), coloured_source(), device="cpu")
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first.images, distill(small_config(), coloured_source(), device="cpu").images)


@pytest.mark.parametrize("stop_after", [1, 3, 5])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_stopped_and_resumed_gives_the_same_bytes(tmp_path, stop_after, schedule):
    data, config = coloured_source(), small_config(image_schedule=schedule)
    whole = distill(config, data, device="cpu")
    path = tmp_path / "run.checkpoint"
    raised, done = stopped.stop_after(stop_after, config, data, path)
    assert f"after iteration {stop_after}; continue with --resume" in str(raised)
    assert raised.signum == 15
    resumed = distill(
        config, data, device="cpu", checkpoint=path, resume=True, on_progress=lambda p: done.append(p.iteration)
    )
    assert done == list(range(1, 7))
    assert resumed.images.numpy().tobytes() == whole.images.numpy().tobytes()
    assert resumed.provenance == whole.provenance


def test_resume_without_a_checkpoint_starts(tmp_path):
    result = distill(small_config(), coloured_source(), device="cpu", checkpoint=tmp_path / "none", resume=True)
    assert result.provenance.iterations == 6


def test_checkpoints_come_when_due(tmp_path):
    path = tmp_path / "run.checkpoint"
    seen: list[tuple[int, int]] = []

    def look(progress):
        if path.exists():
            seen.append((progress.iteration, Checkpoint.load(path).iteration))

    distill(small_config(), coloured_source(), device="cpu", checkpoint=path, checkpoint_every=2, on_progress=look)
    assert seen == [(3, 2), (4, 2), (5, 4), (6, 4)]


def test_resume_with_other_options_or_images_is_refused(tmp_path):
    path = tmp_path / "run.checkpoint"
    distill(small_config(), coloured_source(), device="cpu", checkpoint=path, checkpoint_every=2)
    with pytest.raises(ConfigError, match=r"image_lr: 0.2 given, 0.1 there"):
        distill(small_config(image_lr=0.2), coloured_source(), device="cpu", checkpoint=path, resume=True)
    with pytest.raises(ConfigError, match="other images"):
        other = replace(coloured_source(), fingerprint="f" * 16)
        distill(small_config(), other, device="cpu", checkpoint=path, resume=True)


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"no checkpoint" * 99])
def test_a_damaged_checkpoint_is_one_line(tmp_path, damage):
    path = tmp_path / "run.checkpoint"
    distill(small_config(), coloured_source(), device="cpu", checkpoint=path, checkpoint_every=2)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StoreError, match="delete it to start over"):
        distill(small_config(), coloured_source(), device="cpu", checkpoint=path, resume=True)


def test_other_torch_files_and_newer_checkpoints_are_refused(tmp_path):
    path = tmp_path / "run.checkpoint"
    torch.save({"some": "thing"}, path)
    with pytest.raises(StoreError, match="not a checkpoint of this package"):
        Checkpoint.load(path)
    torch.save({"format": "atom-plugin/checkpoint", "version": 99}, path)
    with pytest.raises(StoreError, match="update"):
        Checkpoint.load(path)


def test_a_loss_that_is_not_finite_keeps_the_checkpoint(tmp_path):
    path = tmp_path / "run.checkpoint"

    @MATCHERS.register("turns-nan")
    class TurnsNan:
        calls = 0

        def __call__(self, real, synthetic):
            TurnsNan.calls += 1
            return synthetic.embedding.sum() * (math.nan if TurnsNan.calls == 4 else 1e-3)

    config = replace(small_config(), matcher="turns-nan", matcher_options={})
    with pytest.raises(DivergenceError, match=r"became nan in iteration 4; lower --image-lr.*kept in .*run.checkpoint"):
        distill(config, coloured_source(), device="cpu", checkpoint=path, checkpoint_every=3)
    kept = Checkpoint.load(path)
    assert kept.iteration == 3
    assert torch.isfinite(kept.images).all()


def test_an_absurd_learning_rate_stops_the_run():
    config = small_config(image_lr=1e38, matcher="dm", augmentation="none", iterations=50)
    with pytest.raises(DivergenceError, match="lower --image-lr"):
        distill(config, coloured_source(), device="cpu")


def test_images_thrown_off_by_the_last_step_are_not_handed_out(tmp_path):
    path = tmp_path / "run.checkpoint"
    config = small_config(image_lr=3e38, matcher="dm", matcher_options={"loss_scale": 1e6}, iterations=2)
    with pytest.raises(DivergenceError, match="lower --image-lr"):
        distill(config, coloured_source(), device="cpu", checkpoint=path, checkpoint_every=1)
    assert not path.exists()


def test_a_loss_without_a_gradient_is_refused():
    MATCHERS.register("constant")(lambda: lambda real, synthetic: torch.zeros(()))
    with pytest.raises(ConfigError, match="does not depend on the synthetic images"):
        Distiller(
            replace(small_config(), matcher="constant", matcher_options={}), coloured_source(), device="cpu"
        ).step()


@pytest.mark.parametrize("normalisation", ["batch", "instance"])
def test_one_step_is_sgd_on_the_plain_loss(normalisation):
    """The whole step against autograd, torch's own SGD, and the plain forward passes."""
    data = coloured_source()
    config = small_config(network={"normalisation": normalisation}, augmentation="none", real_batch=12)
    distiller = Distiller(config, data, device="cpu")
    images = distiller.images.detach().clone().requires_grad_()
    optimizer = torch.optim.SGD([images], lr=config.image_lr, momentum=config.image_momentum)
    matcher = make_matcher("atom", config.matcher_options)
    prepared = distiller.synthetic_set().preprocessing.forward(data.train.images)  # real_batch is the whole class
    for _ in range(3):
        loss = distiller.step()
        network = distiller.network
        expected = matcher(network.features(prepared, groups=3), network.features(images, groups=3))
        assert loss == pytest.approx(float(expected.detach()), rel=1e-4)
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
        torch.testing.assert_close(distiller.images.detach(), images.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("image_init", ["random", "noise", "k-center", "herding"])
def test_every_image_init_starts_from_what_it_says(image_init):
    data = coloured_source()
    distiller = Distiller(small_config(image_init=image_init), data, device="cpu")
    start = distiller.synthetic_set()
    real = start.preprocessing.forward(data.train.images)
    for image, label in zip(start.images, start.labels, strict=True):
        same = (real == image).flatten(1).all(1)
        assert bool(same.any()) == (image_init != "noise")
        if same.any():
            assert set(data.train.labels[same].tolist()) == {int(label)}


def test_a_class_smaller_than_the_real_batch_repeats_its_images():
    data = coloured_source(per_class=3)
    assert math.isfinite(Distiller(small_config(ipc=1, real_batch=64), data, device="cpu").step())


def test_too_few_images_name_the_class():
    with pytest.raises(SourceError, match=r"class 0.*ipc|class 0.*IPC"):
        distill(small_config(ipc=13), coloured_source(), device="cpu")


def test_a_class_without_images_is_named():
    data = coloured_source()
    train = Split(images=data.train.images[:24], labels=data.train.labels[:24])
    with pytest.raises(SourceError, match="class 2 has no training images"):
        distill(small_config(), replace(data, train=train), device="cpu")


@pytest.mark.parametrize("normalisation", sorted(NORMALISATIONS))
@pytest.mark.parametrize("matcher", ["atom", "datadam", "dm"])
def test_bfloat16_stays_near_float32(matcher, normalisation):
    data = coloured_source(per_class=30)
    network = {"width": 32, "normalisation": normalisation}
    config = small_config(matcher=matcher, real_batch=30, network=network)
    whole, narrow = (Distiller(replace(config, precision=p), data, device="cpu") for p in ("float32", "bfloat16"))
    start = whole.images.detach().clone()
    losses = [[run.step() for _ in range(3)] for run in (whole, narrow)]
    assert losses[1] == pytest.approx(losses[0], rel=BFLOAT16_LOSS)
    assert losses[1][0] != losses[0][0]
    assert (narrow.images - whole.images).norm() < BFLOAT16_WAY * (whole.images - start).norm()


@pytest.mark.parametrize("normalisation", ["batch", "instance"])
def test_in_bfloat16_too_the_same_bytes_come_again_and_from_a_run_that_was_stopped(tmp_path, normalisation):
    data, path = coloured_source(), tmp_path / "run.checkpoint"
    config = small_config(precision="bfloat16", network={"normalisation": normalisation})
    first, again = (distill(config, data, device="cpu").images for _ in range(2))
    assert torch.equal(first, again)
    stopped.stop_after(2, config, data, path)
    assert torch.equal(distill(config, data, device="cpu", checkpoint=path, resume=True).images, first)
    with pytest.raises(ConfigError, match="precision: float32 given, bfloat16 there"):
        stopped.stop_after(2, config, data, path)
        distill(replace(config, precision="float32"), data, device="cpu", checkpoint=path, resume=True)


def test_zca_reaches_the_set():
    result = distill(small_config(zca=True), coloured_source(), device="cpu")
    assert result.preprocessing.whitening is not None
    assert result.preprocessing.whitening.eps == 0.1
    assert result.provenance.config["zca_eps"] == 0.1


@pytest.mark.parametrize("recipe", sorted(RECIPES))
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 64, 64)])
def test_recipes_survive_json(tmp_path, recipe, shape):
    needs = {"pool": save_untrained_pool(tmp_path / "a.pool", shape)} if recipe == "mtt-code" else {}
    config = DistillConfig.from_recipe(recipe, ipc=10, image_shape=shape, **needs)
    assert DistillConfig.from_json(config.to_json()).differences(config) == []
    assert config.network.build(shape, 10)
    assert make_matcher(config.matcher, config.matcher_options)


def test_recipes_hold_what_the_sources_say():
    shape = (3, 32, 32)
    paper = DistillConfig.from_recipe("atom-paper", ipc=10, image_shape=shape)
    assert (paper.iterations, paper.real_batch, paper.image_lr) == (8000, 128, 1.0)
    for name in ("atom-paper", "datadam-paper"):  # MTT's: images in [0, 1]
        printed = DistillConfig.from_recipe(name, ipc=10, image_shape=shape)
        assert (printed.standardise, printed.zca_eps) == (False, 0.1)
        larger = DistillConfig.from_recipe(name, ipc=10, image_shape=(3, 64, 64))
        assert (larger.standardise, larger.zca_eps) == (True, None)
    assert dict(paper.matcher_options) == {"p_s": 4.0, "p_c": 4.0, "task_balance": 0.01, "loss_scale": 1.0}
    assert (paper.network.normalisation, paper.network.pool_size, paper.network.weight_init) == (
        "instance",
        3,
        "normal",
    )
    code = DistillConfig.from_recipe("datadam-code", ipc=51, image_shape=shape)
    assert (code.iterations, code.real_batch, code.image_lr, code.zca_eps) == (20_000, 64, 10.0, None)
    assert (code.matcher, code.matcher_options["p_s"], code.network.normalisation) == ("datadam", 1.0, "batch")
    assert DistillConfig.from_recipe("datadam-paper", ipc=1, image_shape=shape).real_batch == 256


def test_overrides_reach_config_network_and_matcher():
    config = DistillConfig.from_recipe(
        "atom", ipc=1, image_shape=(3, 32, 32), network={"depth": 2}, matcher_options={"p_s": 1.0}, zca=False, seed=7
    )
    assert (config.network.depth, config.zca_eps, config.seed) == (2, None, 7)
    assert config.matcher_options["p_s"] == 1.0
    assert config.matcher_options["p_c"] == 4.0
    assert DistillConfig.from_recipe("atom", ipc=1, image_shape=(3, 32, 32), matcher="dm").matcher_options == {}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"ipc": 0}, "ipc must be at least 1"),
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"real_batch": 0}, "real_batch must be at least 1"),
        ({"image_lr": 0.0}, "image_lr must be above 0"),
        ({"image_lr": math.nan}, "image_lr must be above 0"),
        ({"image_momentum": 1.0}, "image_momentum must be at least 0 and below 1"),
        ({"image_init": "zeros"}, "image_init must be one of"),
        ({"precision": "float16"}, "precision must be one of"),
        ({"image_schedule": "step"}, "image_schedule must be one of"),
        ({"zca_eps": 0.0}, "zca_eps must be above 0"),
        ({"zca": False, "zca_eps": 0.1}, "give one of the two"),
        ({"augmentation": "blur"}, "unknown augmentation"),
    ],
)
def test_impossible_configs_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        small_config(**overrides)


def test_unknown_recipe_gets_a_suggestion():
    with pytest.raises(ConfigError, match="did you mean 'atom-paper'"):
        DistillConfig.from_recipe("atom-papr", ipc=1, image_shape=(3, 8, 8))


def test_a_device_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(ConfigError, match="device 'cuda' is not available here; available: cpu"):
        distill(small_config(), coloured_source(), device="cuda")

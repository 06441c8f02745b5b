"""Runs with matchers of whole sets: what is learned beside the images is stored, kept over a stop, and moves as it should."""

import pytest
import stopped
import torch
from small import coloured_source, small_config

from atom_plugin import store
from atom_plugin.distillation import set_matching
from atom_plugin.distillation.checkpoint import Checkpoint
from atom_plugin.distillation.distiller import Distiller
from atom_plugin.distillation.loop import distill
from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.evaluation.pool_training import PoolConfig, make_pool
from atom_plugin.evaluation.training import TrainConfig, TrainingRun
from atom_plugin.matchers import MATCHERS, make_matcher
from atom_plugin.matchers.set_matcher import SetMatcher

SMALL = {
    "dd": {"steps": 2},
    "ld": {"steps": 2},
    "mtt": {"student_steps": 2, "expert_epochs": 1, "label_lr": 1.0},
    "frepo": {"networks": 2, "oldest": 3},
}


@pytest.fixture(scope="module")
def pool_file(tmp_path_factory):
    data, path = coloured_source(), tmp_path_factory.mktemp("pool") / "experts.pool"
    run = small_config(matcher="dd")
    chosen = PoolConfig(network=run.network, training=TrainConfig(epochs=2, batch_size=8), networks=2)
    make_pool(data, run.fit_preprocessing(data), chosen, run=TrainingRun(device=torch.device("cpu"))).save(path)
    return str(path)


def config(name, pool_file, **overrides):
    options = {"matcher": name, "matcher_options": SMALL[name], **overrides}
    return small_config(**options, **({"pool": pool_file} if name == "mtt" else {}))


@pytest.mark.parametrize("name", SMALL)
def test_a_set_holds_what_was_learned_with_it(pool_file, tmp_path, name):
    data = coloured_source()
    chosen = config(name, pool_file)
    made = distill(chosen, data, device="cpu")
    start = Distiller(chosen, data, device="cpu")
    assert torch.equal(made.images, start.images) == (name == "ld")
    assert (made.soft_labels is not None) == (name in ("ld", "mtt", "frepo"))
    assert (made.learned_lr is not None) == (name in ("dd", "ld", "mtt"))
    if made.soft_labels is not None:
        assert made.soft_labels.kind == ("scores" if name == "frepo" else "logits")
        assert made.soft_labels.values.shape == (len(made), 3)
        before = start.synthetic_set().soft_labels.values
        assert not torch.equal(made.soft_labels.values, before)
    store.write(made, tmp_path / "set.h5")
    read = store.read(tmp_path / "set.h5")
    assert read.learned_lr == pytest.approx(made.learned_lr)
    if made.soft_labels is not None:
        assert torch.equal(read.soft_labels.values, made.soft_labels.values)


def test_every_matcher_of_whole_sets_is_tried():
    assert {name for name in MATCHERS.names() if isinstance(make_matcher(name), SetMatcher)} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_each_lowers_its_own_loss(pool_file, name):
    losses = []
    chosen = config(name, pool_file, iterations=40, image_lr=10.0, augmentation="none")
    distill(chosen, coloured_source(), device="cpu", on_progress=lambda progress: losses.append(progress.loss))
    assert sum(losses[-10:]) < 0.85 * sum(losses[:10])


@pytest.mark.parametrize("stop_after", [1, 4])
@pytest.mark.parametrize("name", SMALL)
def test_stopped_and_resumed_gives_the_same_bytes(pool_file, tmp_path, name, stop_after):
    data, path = coloured_source(), tmp_path / "run.checkpoint"
    chosen = config(name, pool_file)
    whole = distill(chosen, data, device="cpu")
    stopped.stop_after(stop_after, chosen, data, path)
    resumed = distill(chosen, data, device="cpu", checkpoint=path, resume=True)
    assert resumed.images.numpy().tobytes() == whole.images.numpy().tobytes()
    assert resumed.learned_lr == whole.learned_lr
    if whole.soft_labels is not None:
        assert resumed.soft_labels.values.numpy().tobytes() == whole.soft_labels.values.numpy().tobytes()


@pytest.mark.parametrize("name", ["dd", "frepo"])
@pytest.mark.parametrize("form", [{"factor": 2}, {"storage": "uint8"}, {"factor": 2, "storage": "uint8"}])
def test_packed_and_pixel_sets_are_made_too(pool_file, name, form):
    made = distill(config(name, pool_file, **form), coloured_source(), device="cpu")
    assert made.factor == form.get("factor", 1)
    assert made.decoded_count == len(made) * made.factor**2


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("dd", {"inner_loop": 2}, "inner_loop .2. has no effect on the matcher 'dd'"),
        ("frepo", {"nested": "1,2"}, "compares more than class means"),
        ("dd", {"memory_budget": 100_000}, "all classes at once, .* a memory budget of 100 KB"),
        ("dd", {"network_state": "trajectory"}, "give a pool"),
        ("mtt", {"matcher_options": {"expert_epochs": 7}}, "two epochs 7 apart"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(pool_file, name, overrides, words):
    with pytest.raises(ConfigError, match=words) as caught:
        Distiller(config(name, pool_file, **overrides), coloured_source(), device="cpu")
    assert "\n" not in str(caught.value)


def test_more_maps_than_the_machine_has_room_for_are_refused(monkeypatch):
    monkeypatch.setattr(set_matching, "machine_memory", lambda: 100_000)
    with pytest.raises(
        ConfigError,
        match=r"'dd' keeps the maps of 39 images at once, about .*, but 100 KB are available; use fewer steps",
    ):
        Distiller(small_config(matcher="dd", matcher_options={"steps": 2}), coloured_source(), device="cpu")


def test_a_pool_of_another_network_is_refused(pool_file):
    with pytest.raises(ConfigError, match="the pool does not fit"):
        Distiller(config("mtt", pool_file, network={"width": 6}), coloured_source(), device="cpu")


def test_mtt_without_a_pool_says_what_to_make():
    with pytest.raises(ConfigError, match="give a pool"):
        Distiller(small_config(matcher="mtt"), coloured_source(), device="cpu")


def test_a_trajectory_is_for_mtt_alone(pool_file):
    with pytest.raises(ConfigError, match=r"trajectory.*'atom'.*mtt"):
        Distiller(small_config(pool=pool_file, network_state="trajectory"), coloured_source(), device="cpu")


@pytest.mark.parametrize("damage", ["missing", "shape", "nan", "other names"])
def test_a_damaged_checkpoint_is_refused(pool_file, tmp_path, damage):
    data, path = coloured_source(), tmp_path / "run.checkpoint"
    chosen = config("frepo", pool_file)
    stopped.stop_after(2, chosen, data, path)
    kept = Checkpoint.load(path)
    learned = {part: dict(values) for part, values in kept.learned.items()}
    if damage == "shape":
        learned["learned"]["labels"] = torch.zeros(2, 2)
    if damage == "nan":
        learned["carried"]["weights"] = learned["carried"]["weights"] * float("nan")
    if damage == "other names":
        learned["momentum"] = {}
    Checkpoint(**{**vars(kept), "learned": None if damage == "missing" else learned}).save(path)
    with pytest.raises(StoreError, match="damaged; delete it to start over"):
        distill(chosen, data, device="cpu", checkpoint=path, resume=True)

"""Runs whose prefixes are sets of their own."""

import operator

import pytest
import stopped
import torch
from small import coloured_source, small_config

from atom_plugin import store
from atom_plugin.distillation import distiller
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.distiller import Distiller
from atom_plugin.distillation.engine.cuda_engine import CudaEngine
from atom_plugin.distillation.loop import distill
from atom_plugin.errors import ConfigError

DATA = coloured_source(per_class=40)


def losses_and_images(count=4, **overrides):
    run = Distiller(small_config(iterations=count, ipc=5, **overrides), DATA, device="cpu")
    with run.running():
        losses = [run.launch()() for _ in range(count)]
    return losses, run.images.clone()


@pytest.mark.parametrize("form", [{}, {"factor": 2, "storage": "uint8"}])
@pytest.mark.parametrize("matcher", ["atom", "dm"])
def test_the_captured_step_equals_the_plain_one(monkeypatch, matcher, form):
    options = {"matcher": matcher, "nested": "1,3", "image_init": "random", **form}
    plain, images = losses_and_images(**options)
    monkeypatch.setattr(distiller, "choose_engine", lambda name, network, features, device: CudaEngine(network))
    captured, same = losses_and_images(**options)
    assert captured == pytest.approx(plain, rel=1e-4)
    torch.testing.assert_close(same, images, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("tiles", [1, 4])
@pytest.mark.parametrize(("text", "weights"), [("1,3", [1, 3, 5]), ("1:4,3,5:0.5", [4, 3, 2.5])])
def test_its_loss_is_the_weighted_mean_of_those_of_runs_of_its_prefixes(tiles, text, weights):
    factor = 2 if tiles == 4 else 1
    options = {"network": {"normalisation": "instance"}, "image_init": "random", "factor": factor, "iterations": 1}
    nested = Distiller(small_config(ipc=5, nested=text, **options), DATA, device="cpu")
    images = nested.images.clone().unflatten(0, (3, -1))
    losses = []
    for count in (1, 3, 5):
        alone = Distiller(small_config(ipc=count, **options), DATA, device="cpu")
        alone.images.copy_(images[:, :count].flatten(0, 1))
        with alone.running():
            losses.append(alone.step())
    with nested.running():
        expected = sum(map(operator.mul, weights, losses)) / sum(weights)
        assert nested.step() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("nested", ["some", "1:3,2"])
def test_stopped_and_resumed_gives_the_same_bytes_and_the_file_says_so(tmp_path, nested):
    config, path = small_config(ipc=5, nested=nested, image_init="random"), tmp_path / "run.checkpoint"
    whole = distill(config, DATA, device="cpu")
    stopped.stop_after(3, config, DATA, path)
    resumed = distill(config, DATA, device="cpu", checkpoint=path, resume=True)
    assert resumed.images.numpy().tobytes() == whole.images.numpy().tobytes()
    whole.save(tmp_path / "nested.h5")
    again = store.read(tmp_path / "nested.h5")
    assert again.prefixes == whole.prefixes == (1, 2, 5)
    assert store.read_header(tmp_path / "nested.h5").prefixes == (1, 2, 5)
    cut = again.first(2)
    assert (cut.ipc, cut.prefixes) == (2, (1, 2))
    assert torch.equal(cut.images, whole.images.unflatten(0, (3, -1))[:, :2].flatten(0, 1))
    assert again.provenance.config["nested"] == nested
    assert DistillConfig.from_json(again.provenance.config).to_json() == again.provenance.config
    other = small_config(ipc=5, nested="1:2,2", image_init="random")
    stopped.stop_after(3, config, DATA, path)
    with pytest.raises(ConfigError, match=r"nested: 1:2,2"):
        distill(other, DATA, device="cpu", checkpoint=path, resume=True)
    with pytest.raises(ConfigError, match="5 images of each class, expected 6"):
        again.first(6)


@pytest.mark.parametrize(
    ("nested", "ipc", "expected"),
    [
        ("all", 3, (1, 2, 3)),
        ("some", 1, (1,)),
        ("some", 50, (1, 2, 5, 10, 20, 50)),
        ("some", 30, (1, 2, 5, 10, 20, 30)),
        ("4,2", 6, (2, 4, 6)),
    ],
)
def test_counts(nested, ipc, expected):
    config = small_config(ipc=ipc, nested=nested)
    assert config.prefixes == expected
    assert config.image_init == "herding"  # so that the first images are good ones from the start


@pytest.mark.parametrize(
    ("nested", "expected"),
    [
        ("1:3,2,4:0.5", {1: 3 / 12, 2: 2 / 12, 4: 2 / 12, 5: 5 / 12}),
        ("5:2, 1", {1: 1 / 11, 5: 10 / 11}),
        ("5", {5: 1.0}),
        ("some", {1: 1 / 8, 2: 2 / 8, 5: 5 / 8}),
    ],
)
def test_weights(nested, expected):
    config = small_config(ipc=5, nested=nested)
    assert config.prefix_weights == pytest.approx(expected)
    assert DistillConfig.from_json(config.to_json()).prefix_weights == config.prefix_weights


@pytest.mark.parametrize(
    "nested", ["0", "6", "1,x", "", "1;2", "9" * 400, "1:0", "1:-1", "1:nan", "1:", "2,2", "1:2,1:3"]
)
def test_counts_that_are_none_are_refused(nested):
    with pytest.raises(ConfigError, match=r"nested must be counts from 1 to ipc \(5\)"):
        small_config(ipc=5, nested=nested)


def test_a_matcher_that_cannot_is_refused_before_the_run():
    with pytest.raises(ConfigError, match="leave nested out"):
        Distiller(small_config(nested="all", matcher="dc"), DATA, device="cpu")

"""Checkpoints that are damaged or somebody else's: one line that says what was found, and the run's files stay."""

from __future__ import annotations

import math

import pytest
import stopped
import torch
from small import coloured_source, small_config

from atom_plugin.distillation.checkpoint import Checkpoint
from atom_plugin.distillation.loop import distill
from atom_plugin.errors import ConfigError, StoreError

COURSE = {"inner_loop": 4, "network_epochs": 1}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The values of a checkpoint whose network goes on."""
    path = tmp_path_factory.mktemp("run") / "run.checkpoint"
    stopped.stop_after(3, small_config(**COURSE), coloured_source(), path)
    return torch.load(path, weights_only=True)


def put(tmp_path, saved, *, drop=(), **changes):
    path = tmp_path / "run.checkpoint"
    torch.save({name: value for name, value in (saved | changes).items() if name not in drop}, path)
    return path


def refused(path, kind=StoreError) -> str:
    before = path.read_bytes()
    with pytest.raises(kind) as caught:
        distill(small_config(**COURSE), coloured_source(), device="cpu", checkpoint=path, resume=True)
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and "\n" not in line
    assert path.read_bytes() == before
    return line


def test_the_checkpoint_itself_is_sound(tmp_path, saved):
    result = distill(
        small_config(**COURSE), coloured_source(), device="cpu", checkpoint=put(tmp_path, saved), resume=True
    )
    assert result.provenance.iterations == 6


@pytest.mark.parametrize(
    "name", ["version", "iteration", "images", "momentum", "config", "fingerprint", "network", "format"]
)
def test_a_missing_value_is_named(tmp_path, saved, name):
    line = refused(put(tmp_path, saved, drop=[name]))
    assert "delete it to start over" in line
    assert name in line or name == "format"


NESTED: list[object] = []
for _ in range(100):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "2"}, "found checkpoint version '2', expected 1 to 3"),
        ({"version": None}, "found checkpoint version None"),
        ({"version": True}, "found checkpoint version True"),
        ({"version": 0}, "found checkpoint version 0"),
        ({"iteration": "3"}, "found iteration '3', expected int"),
        ({"iteration": 3.0}, "found iteration 3.0, expected int"),
        ({"iteration": True}, "found iteration True, expected int"),
        ({"iteration": -1}, "found iteration -1, expected 0 or more"),
        ({"iteration": 7}, "found iteration 7, but the run has 6"),
        ({"iteration": 10**30}, "but the run has 6"),
        ({"images": [1, 2]}, "found images [1, 2], expected Tensor"),
        ({"images": torch.zeros(6, 3, 8, 8, dtype=torch.float64)}, "found images of torch.float64"),
        ({"images": torch.zeros(6, 3, 64)}, "found images of torch.float32 (6, 3, 64)"),
        ({"images": torch.zeros(1).expand(6, 3, 8, 8)}, "declare more values than the file has"),
        ({"images": torch.zeros(6, 3, 8, 8).to_sparse()}, "declare more values than the file has"),
        ({"images": torch.full((6, 3, 8, 8), math.nan)}, "found images with values that are not finite"),
        ({"momentum": 0.5}, "found momentum 0.5, expected Tensor or nothing"),
        ({"momentum": torch.zeros(5, 3, 8, 8)}, "found momentum of torch.float32 (5, 3, 8, 8)"),
        ({"momentum": torch.zeros(6, 3, 8, 8, dtype=torch.bfloat16)}, "found momentum of torch.bfloat16"),
        ({"config": None}, "found config None, expected dict"),
        ({"config": {}}, "ipc"),
        ({"config": {"ipc": "two"}}, "ipc must be a whole number, not 'two'"),
        ({"config": {"ipc": 2, "of_later": 1}}, "of_later"),
        ({"config": {"ipc": 2, "matcher_options": {"a": NESTED}}}, "deep"),
        ({"fingerprint": 7}, "found fingerprint 7, expected str"),
        ({"loss": "low"}, "found loss 'low', expected float or nothing"),
        ({"loss": math.inf}, "found loss inf, expected a finite number"),
        ({"network": [1]}, "found network [1], expected dict or nothing"),
        ({"network": {}}, "found no state of the network that iteration 3 continues with"),
        ({"network": {"network": {}, "optimizer": None}}, "found the state of another network"),
        ({"network": {"network": 3, "optimizer": None}}, "found the state of another network"),
    ],
)
def test_wrong_values_are_named(tmp_path, saved, changes, words):
    line = refused(put(tmp_path, saved, **changes))
    assert words in line
    assert "delete it to start over" in line


@pytest.mark.parametrize(
    "wrong",
    [
        "x",
        {},
        {"state": {99: {"momentum_buffer": torch.zeros(1)}}, "param_groups": []},
        {"state": {0: {"momentum_buffer": torch.zeros(1)}}, "param_groups": []},
        {"state": {0: {}}, "param_groups": []},
        {"state": {0: {"momentum_buffer": 3}}, "param_groups": []},
    ],
)
def test_the_state_of_another_optimiser_is_refused(tmp_path, saved, wrong):
    network = {**saved["network"], "optimizer": wrong}
    assert "found the state of another network" in refused(put(tmp_path, saved, network=network))


def test_the_rates_of_an_optimiser_are_the_runs_and_not_the_files(tmp_path, saved):
    optimizer = saved["network"]["optimizer"]
    groups = [{**optimizer["param_groups"][0], "lr": "fast", "momentum": 40.0}]
    network = {**saved["network"], "optimizer": {**optimizer, "param_groups": groups}}
    results = [
        distill(small_config(**COURSE), coloured_source(), device="cpu", checkpoint=path, resume=True).images
        for path in (put(tmp_path, saved), put(tmp_path, saved, network=network))
    ]
    assert torch.equal(*results)


def test_images_of_another_shape_are_another_runs(tmp_path, saved):
    small = torch.zeros(6, 3, 4, 4)
    assert "found images of shape (6, 3, 4, 4), expected (6, 3, 8, 8)" in refused(
        put(tmp_path, saved, images=small, momentum=small)
    )


def test_another_runs_config_and_images_are_told_apart(tmp_path, saved):
    assert "image_lr" in refused(put(tmp_path, saved, config={**saved["config"], "image_lr": 2.0}), ConfigError)
    assert "made from other images" in refused(put(tmp_path, saved, fingerprint="0"), ConfigError)


def test_other_files_are_no_checkpoints(tmp_path):
    for content in (b"", b"PK\x03\x04", b"atom-plugin/checkpoint", b"\x80\x05K\x01."):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(StoreError, match="delete it to start over"):
            Checkpoint.load(tmp_path / "a")
    with pytest.raises(StoreError, match="there is no checkpoint; run without --resume"):
        Checkpoint.load(tmp_path / "absent")

"""Pools of trained networks: what is drawn from them, their file, and what does not fit."""

from dataclasses import replace

import h5py
import pytest
import torch

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.models.network_pool import NetworkPool, flat_weights, set_weights
from atom_plugin.runtime.randomness import generator_for

CONFIG = ConvNetConfig(width=4, depth=2)


def small_pool(**overrides):
    networks = [CONFIG.build((3, 8, 8), 3, generator=generator_for(seed, "pool")) for seed in range(6)]
    weights = torch.stack([flat_weights(network) for network in networks]).view(2, 3, -1)
    known = {
        "network": CONFIG,
        "image_shape": (3, 8, 8),
        "classes": 3,
        "epochs": (0, 2, 3),
        "weights": weights,
        "accuracies": (0.5, 0.25),
        "fingerprint": "0123456789abcdef",
        "preprocessing": "standardised",
        "made": {"seed": 0},
    }
    return NetworkPool(**{**known, **overrides})


def test_interpolated_weights_lie_on_the_way_from_start_to_end():
    pool, seen, shares = small_pool(), set(), []
    for number in range(40):
        index, weights = pool.draw("interpolated", generator_for(0, "draw", number))
        start, end = pool.weights[index, 0], pool.weights[index, -1]
        share = float((weights - start) @ (end - start) / (end - start).square().sum())
        torch.testing.assert_close(weights, (1 - share) * start + share * end)
        seen.add(index)
        shares.append(share)
    assert seen == {0, 1}
    assert 0 <= min(shares) < 0.2 < 0.8 < max(shares) <= 1


def test_a_random_epoch_is_one_of_those_kept():
    pool = small_pool()
    drawn = [pool.draw("random-epoch", generator_for(1, "draw", number)) for number in range(40)]
    ages = {next(age for age in range(3) if torch.equal(pool.weights[index, age], weights)) for index, weights in drawn}
    assert ages == {0, 1, 2}


def test_weights_around_an_end_lie_at_the_radius_in_every_direction():
    pool = small_pool()
    steps = []
    for number in range(20):
        index, weights = pool.draw("around", generator_for(0, "draw", number), radius=0.5)
        steps.append(weights - pool.end(index))
    assert torch.stack([step.norm() for step in steps]).tolist() == pytest.approx([0.5] * 20, rel=1e-4)
    turns = torch.stack(steps) / 0.5
    cosines = (turns @ turns.T)[~torch.eye(20, dtype=torch.bool)]
    assert float(cosines.abs().max()) < 0.5


def test_weights_go_into_a_network_and_come_out():
    pool, network = small_pool(), CONFIG.build((3, 8, 8), 3).to(memory_format=torch.channels_last)
    set_weights(network, pool.end(1))
    assert torch.equal(flat_weights(network), pool.weights[1, -1])


def test_it_comes_back_from_its_file(tmp_path):
    pool, path = small_pool(), tmp_path / "a.pool"
    pool.save(path)
    again = NetworkPool.load(path)
    assert torch.equal(again.weights, pool.weights)
    assert (again.sha256, again.epochs, again.accuracies, again.network) == (
        pool.sha256,
        (0, 2, 3),
        (0.5, 0.25),
        CONFIG,
    )
    pool.save(tmp_path / "b.pool")
    assert path.read_bytes() == (tmp_path / "b.pool").read_bytes()
    with pytest.raises(StoreError, match="exists"):
        pool.save(path)


def test_damaged_and_foreign_files_are_refused_in_a_line(tmp_path):
    path = tmp_path / "a.pool"
    small_pool().save(path)
    with h5py.File(path, "r+") as file:
        file["weights"][0, 0, 0] += 1
    with pytest.raises(StoreError, match="checksum"):
        NetworkPool.load(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(StoreError, match="cannot be read as a pool"):
        NetworkPool.load(path)
    with pytest.raises(StoreError, match="no such pool"):
        NetworkPool.load(tmp_path / "none.pool")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(StoreError, match="not a pool of networks"):
        NetworkPool.load(tmp_path / "other.h5")


def deeper(about: str) -> str:
    return about[:-1] + ', "x": ' + "[" * 900 + "]" * 900 + "}"


@pytest.mark.parametrize(
    ("about", "words"),
    [
        (deeper, "found values nested"),
        (lambda about: about.replace('"classes": 3', '"classes": 1e999'), "found the number inf"),
        (lambda about: about.replace('"classes": 3', '"classes": 1000000000000'), "lower the width or the depth"),
        (lambda about: about.replace('"width": 4', '"width": "x"'), "width must be a whole number"),
        (lambda about: about.replace('"epochs": [', '"epochs": ["a", '), "weights of a pool"),
        (lambda about: "[]", "cannot be read as a pool"),
    ],
)
def test_what_a_pool_says_of_itself_is_checked(tmp_path, about, words):
    path = tmp_path / "a.pool"
    small_pool().save(path)
    with h5py.File(path, "r+") as file:
        file.attrs["about"] = about(file.attrs["about"])
    with pytest.raises(StoreError, match=f"{words}.*make it again"):
        NetworkPool.load(path)


def test_a_pool_that_declares_more_than_it_holds_is_not_read(tmp_path):
    path = tmp_path / "a.pool"
    small_pool().save(path)
    with h5py.File(path, "r+") as file:
        del file["weights"]
        file.create_dataset("weights", (2**20, 2**10, 2**10), "<f4")
    with pytest.raises(StoreError, match="declare more values than the file has"):
        NetworkPool.load(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"network": replace(CONFIG, width=8)}, "width 4, expected width 8"),
        ({"image_shape": (3, 16, 16)}, "images"),
        ({"classes": 4}, "number of classes"),
        ({"fingerprint": "other"}, "source"),
        ({"preprocessing": "none"}, "preprocessing"),
    ],
)
def test_a_run_that_it_does_not_fit_is_refused(change, words):
    run = {
        "network": CONFIG,
        "image_shape": (3, 8, 8),
        "classes": 3,
        "fingerprint": "0123456789abcdef",
        "preprocessing": "standardised",
    }
    small_pool().check(**run)
    with pytest.raises(ConfigError, match=words):
        small_pool().check(**{**run, **change})


def test_a_pool_of_no_networks_is_no_pool_for_a_run():
    pool = small_pool()
    none = replace(pool, weights=pool.weights[:0], accuracies=())
    with pytest.raises(ConfigError, match="pool of no networks"):
        none.check(CONFIG, (3, 8, 8), 3, fingerprint=pool.fingerprint, preprocessing="standardised")


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="weights of a pool"):
        small_pool(weights=torch.zeros(2, 3, 5))
    with pytest.raises(ConfigError, match="epochs"):
        small_pool(epochs=(1, 2, 3))

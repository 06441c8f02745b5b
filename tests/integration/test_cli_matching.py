"""The matchers and the course of the network from the command line, on the embedded digits."""

from __future__ import annotations

from dataclasses import replace

import h5py
import pytest
from commands import run

from atom_plugin.cli.main import main
from atom_plugin.models.network_pool import NetworkPool, flat_weights
from atom_plugin.store.schema import SOFT_LABELS
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.augmentation import DEFAULT_STRATEGY

QUICK = ("--width", "8", "--iterations", "4", "--real-batch", "4", "--quiet", "--precision", "float32")


pytestmark = pytest.mark.usefixtures("inside")


@pytest.mark.parametrize(
    ("matcher", "augmentation"), [("dc", "none"), ("dsa", DEFAULT_STRATEGY), ("cafe", DEFAULT_STRATEGY)]
)
def test_a_matcher_brings_its_loop_along(capsys, matcher, augmentation):
    run(capsys, "distill", "--ipc", 1, *QUICK, "--matcher", matcher, "-o", "a.h5")
    config = SyntheticSet.load("a.h5").provenance.config
    assert (config["augmentation"], config["image_lr"]) == (augmentation, 0.1)
    run(capsys, "distill", "--ipc", 1, *QUICK, "--matcher", matcher, "-o", "b.h5", "--augmentation", "flip")
    assert SyntheticSet.load("b.h5").provenance.config["augmentation"] == "flip"


def test_the_course_of_the_network_reaches_the_set(capsys):
    course = ("--inner-loop", 2, "--network-epochs", 1, "--network-lr", 0.02, "--network-state", "trained:1")
    run(capsys, "distill", "--ipc", 1, *QUICK, *course, "--network-pool", 2, "-o", "a.h5")
    config = SyntheticSet.load("a.h5").provenance.config
    names = ("inner_loop", "network_epochs", "network_lr", "network_state", "network_pool")
    assert [config[name] for name in names] == [2, 1, 0.02, "trained:1", 2]
    run(capsys, "distill", "--ipc", 1, *QUICK, *course, "--network-pool", 2, "-o", "b.h5")
    assert SyntheticSet.load("b.h5").images.equal(SyntheticSet.load("a.h5").images)


def test_matcher_options_reach_the_matcher(capsys):
    given = ("error_s=cosine", "norm-c=l1", "layers=[1]", "kernel=mixture", "bandwidths=[0.5, 2]")
    options = [word for item in given for word in ("--matcher-option", item)]
    run(capsys, "distill", "--ipc", 2, *QUICK, *options, "-o", "a.h5")
    held = SyntheticSet.load("a.h5").provenance.config["matcher_options"]
    expected = {"error_s": "cosine", "norm_c": "l1", "layers": [1], "kernel": "mixture", "bandwidths": [0.5, 2]}
    assert {name: held[name] for name in expected} == expected


def test_resuming_the_finished_set_of_an_older_release_reports_it(capsys):
    run(capsys, "distill", "--ipc", 1, *QUICK, "-o", "a.h5")
    held = SyntheticSet.load("a.h5")
    old = {key: value for key, value in held.provenance.config.items() if not key.startswith(("network_", "inner"))}
    replace(held, provenance=replace(held.provenance, config=old)).save("a.h5", force=True)
    run(capsys, "distill", "--ipc", 1, *QUICK, "-o", "a.h5", "--resume")
    assert main(["distill", "--ipc", "1", *QUICK, "-o", "a.h5", "--resume", "--inner-loop", "2"]) == 1
    assert "was made with another inner_loop" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--network-state", "trained"), "network_state must be random or trained:EPOCHS"),
        (("--network-pool", "3"), "network_pool (3) is only for network_state trained:EPOCHS"),
        (("--network-epochs", "3"), "give an inner_loop of 2 or more"),
        (("--network-epochs", "-1"), "--network-epochs must be at least 0"),
        (("--inner-loop", "0"), "--inner-loop must be at least 1"),
        (("--network-lr", "0.1"), "network_lr (0.1) is only for network_epochs"),
        (("--matcher", "dc", "--matcher-option", "p_s=1"), "it takes the options loss_scale, biases"),
        (("--matcher", "dc", "--matcher-option", "biases=maybe"), "biases='maybe'; it must be true or false"),
        (("--matcher-option", "norm_s=l9"), "norm_s must be one of l2, l1, none"),
        (("--matcher-option", "layers=one"), "layers must be a list of block numbers"),
        (("--matcher-option", "layers=[9]"), "name block 9, the network has 2"),
        (("--matcher-option", "bandwidths=[1]"), "bandwidths have no effect on the linear kernel"),
        (("--matcher-option", 'error_c={"a": 1}'), "error_c must be one of"),
        (("--matcher", "cafe", "--matcher-option", "map_weight=null"), "map_weight"),
    ],
)
def test_what_cannot_be_is_one_line(inside, capsys, arguments, part):
    assert main(["distill", "--ipc", "1", *QUICK, "-o", "a.h5", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert part in captured.err
    assert not list(inside.iterdir())


POOL = ("pool", "make", "--networks", 1, "--width", 8, "--precision", "float32", "--quiet", "-o", "a.pool")
MTT = ("distill", "--ipc", "1", "--matcher", "mtt", "--pool", "a.pool", "--quiet", "--precision", "float32")


@pytest.mark.parametrize("recipe", ["atom", "mtt-code"])
def test_trajectories_of_a_pool_are_matched(capsys, recipe):
    run(capsys, *POOL, "--epochs", 2, "--every", 1)
    matcher = () if recipe == "mtt-code" else ("--matcher", "mtt")
    few = ("--iterations", 2, "--matcher-option", "student_steps=2")
    run(capsys, "distill", "--ipc", 1, "--recipe", recipe, *matcher, *MTT[5:], *few, "-o", "a.h5")
    held = SyntheticSet.load("a.h5")
    assert held.provenance.method == "mtt"
    assert held.learned_lr > 0


@pytest.mark.parametrize(
    ("options", "training"),
    [
        ((), ("standard", 10, 64, 0.9)),
        (("--epochs", 3), ("standard", 3, 64, 0.9)),
        (("--training-recipe", "mtt-experts", "--epochs", 2), ("mtt-experts", 2, 256, 0.0)),
        (("--training-recipe", "mtt-experts", "--batch-size", 700), ("mtt-experts", 50, 700, 0.0)),
    ],
)
def test_a_pool_is_trained_as_asked(capsys, options, training):
    run(capsys, *POOL, *options)
    made = NetworkPool.load("a.pool").made["training"]
    assert (made["recipe"], made["epochs"], made["batch_size"], made["momentum"]) == training


@pytest.mark.parametrize(
    ("pool", "more", "words"),
    [
        (("--epochs", 2, "--every", 1, "--depth", 2), ("--normalisation", "batch"), ("networks", "make a pool")),
        (
            ("--epochs", 2, "--every", 1, "--validation", "0.1"),
            (),
            ("source", "make a pool of the same training images"),
        ),
        (("--epochs", 1, "--every", 1), (), ("epochs 0, 1", "2 apart", "lower expert_epochs")),
        (("--epochs", 4), (), ("epochs 0, 4", "2 apart", "--every 1")),
        (
            ("--epochs", 2, "--every", 1),
            ("--matcher", "atom", "--network-state", "trajectory"),
            ("only mtt matches trajectories",),
        ),
        (
            ("--epochs", 2, "--every", 1),
            ("--matcher", "frepo", "--network-state", "random-epoch"),
            ("leave out the pool",),
        ),
    ],
)
def test_a_pool_that_does_not_do_is_refused_in_one_line(capsys, pool, more, words):
    run(capsys, *POOL, *pool)
    assert main([*MTT, *more]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert [word for word in words if word not in told] == []


def test_a_pool_of_other_classes_is_refused_in_one_line(capsys):
    run(capsys, *POOL, "--epochs", 2, "--every", 1)
    pool = NetworkPool.load("a.pool")
    network = pool.network.build(pool.image_shape, 3)
    weights = flat_weights(network).expand(1, len(pool.epochs), -1).clone()
    replace(pool, classes=3, weights=weights).save("a.pool", force=True)
    assert main(list(MTT)) == 2
    told = capsys.readouterr().err
    assert "found number of classes 3, expected 10; make a pool" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("chosen", [("--matcher", "mtt"), ("--recipe", "mtt-code")])
def test_without_a_pool_mtt_says_what_to_make(capsys, chosen):
    assert main(["distill", "--ipc", "1", *chosen, "--quiet", "--precision", "float32"]) == 2
    told = capsys.readouterr().err
    assert "give a pool of networks kept at every epoch, from  atom-cli pool make --every 1" in told
    assert told.count("\n") == 1


def test_labels_of_another_number_of_classes_are_refused_in_one_line(capsys):
    run(capsys, "distill", "--ipc", 1, *QUICK, "--matcher", "ld", "--matcher-option", "steps=1", "-o", "a.h5")
    with h5py.File("a.h5", "r+") as file:
        values = file[SOFT_LABELS]["values"][:, :7]
        del file[SOFT_LABELS]["values"]
        file[SOFT_LABELS]["values"] = values
    quick = ("--epochs", "1", "--repeats", "1", "--quiet", "--precision", "float32")
    assert main(["consume", "evaluate", "a.h5", *quick]) == 1
    told = capsys.readouterr().err
    assert "soft_labels/values: found shape (10, 7)" in told
    assert told.count("\n") == 1

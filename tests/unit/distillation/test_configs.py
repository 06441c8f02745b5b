"""The configs of distilled and selected sets: what each field says, what may not be given, and files of older releases."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from small import coloured_source, small_config, small_selection

from atom_plugin.distillation.checkpoint import Checkpoint
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.distillation.loop import distill
from atom_plugin.distillation.recipes import recipe_values
from atom_plugin.distillation.select_config import SelectConfig, current_json
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.distillation.set_config import METHODS
from atom_plugin.errors import ConfigError
from atom_plugin.evaluation import network_of
from atom_plugin.matchers import MATCHERS, make_matcher
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.runtime.settings import abouts

SHAPE = (3, 32, 32)


@pytest.mark.parametrize("config", [DistillConfig, SelectConfig, ConvNetConfig])
def test_every_field_has_a_help_that_is_a_sentence_of_its_own(config: type) -> None:
    for name, item in abouts(config).items():
        assert item.help[0].isupper(), name
        assert item.help.endswith("."), name
        # No pronoun whose noun stands in another field's help.
        assert not re.search(r"^(Its|That|Those|These|Such)\b|\b(of|over|by) (that|those|these|such)\b", item.help), (
            name
        )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ipc": 1.5}, "ipc must be a whole number, not 1.5"),
        ({"ipc": True}, "ipc"),
        ({"ipc": "3"}, "ipc"),
        ({"ipc": None}, "ipc"),
        ({"image_lr": math.inf}, "image_lr must be finite"),
        ({"image_lr": 1e300}, "image_lr must be finite"),
        ({"network_lr": math.nan, "inner_loop": 2, "network_epochs": 1}, "network_lr"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"seed": 2**64}, "seed must be at least 0 and at most 18,446,744,073,709,551,615"),
        ({"iterations": 10.0}, "iterations must be a whole number"),
        ({"augmentation": None}, "augmentation"),
        ({"network": {"width": 8}}, "network must be a ConvNetConfig"),
        ({"matcher_options": {"layers": object()}}, "matcher_options must be JSON"),
        ({"matcher_options": {"p_s": math.nan}}, "matcher_options must be JSON"),
        ({"extended": (3,)}, "extended must be a mapping for each earlier part"),
        ({"extended": "x"}, "extended must be a tuple"),
        ({"memory_budget": 0}, "memory_budget must be at least 1"),
        ({"itertions": 3}, "did you mean 'iterations'"),
        ({"initialiser": "noise"}, "initialiser is the former name of image_init"),
    ],
)
def test_what_cannot_be_is_refused_when_a_config_is_made(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DistillConfig(**{"ipc": 1, **given})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ipc": "1"}, "ipc"),
        ({"recipe": None}, "recipe"),
        ({"image_shape": None}, "image_shape"),
        ({"image_shape": (3, 32)}, "image_shape"),
        ({"network": 3}, "network"),
        ({"network": {"depht": 3}}, "did you mean 'depth'"),
        ({"matcher": 3}, "matcher"),
        ({"matcher_options": 3}, "matcher_options"),
        ({"zca": "yes"}, "zca"),
    ],
)
def test_what_cannot_be_is_refused_by_a_recipe(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DistillConfig.from_recipe(**{"recipe": "atom", "ipc": 1, "image_shape": SHAPE, **given})


def test_a_seed_of_64_bits_is_one() -> None:
    data = coloured_source()
    made = selected_set(small_selection(seed=2**64 - 1), data)
    assert made.provenance.seed == 2**64 - 1


@pytest.mark.parametrize("run", [distill, selected_set])
def test_nothing_in_the_place_of_config_or_data_is_refused(run: Any) -> None:
    config = small_config() if run is distill else small_selection()
    with pytest.raises(ConfigError, match="config must be a"):
        run(None, coloured_source())
    with pytest.raises(ConfigError, match="data must be a SourceData"):
        run(config, None)


def test_an_override_of_none_was_not_given() -> None:
    for config in (DistillConfig, SelectConfig):
        plain = config.from_recipe("atom", ipc=2, image_shape=SHAPE)
        assert plain.zca_eps == 0.1
        assert config.from_recipe("atom", ipc=2, image_shape=SHAPE, zca=None, zca_eps=None, seed=None) == plain
        assert config.from_recipe("atom", ipc=2, image_shape=(1, 8, 8), zca=True, zca_eps=None).zca_eps == 0.1


@pytest.mark.parametrize("shape", [(1, 8, 8), SHAPE, (3, 64, 64)])
@pytest.mark.parametrize(
    "options", [{}, {"zca": True}, {"zca": False}, {"zca_eps": 0.3}, {"standardise": False}, {"seed": 3}]
)
def test_a_selection_is_preprocessed_as_a_distilled_set_of_the_same_options(
    shape: tuple[int, int, int], options: dict[str, Any]
) -> None:
    made = [kind.from_recipe("atom", ipc=2, image_shape=shape, **options) for kind in (DistillConfig, SelectConfig)]
    names = ("standardise", "zca_eps", "network", "seed", "ipc")
    assert [getattr(made[0], name) for name in names] == [getattr(made[1], name) for name in names]


def test_a_matcher_is_asked_for_its_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    get = MATCHERS.get
    monkeypatch.setattr(MATCHERS, "get", lambda name: (asked.append(name), get(name))[1])
    for recipe, matcher in (("atom", "dc"), ("dc-code", None), ("dsa-code", None)):
        DistillConfig.from_recipe(recipe, ipc=1, image_shape=SHAPE, matcher=matcher)
    assert asked == ["dc", "dc", "dsa"]


# Files of older releases.

OLD_NETWORK = {
    **{"depth": 2, "width": 8, "activation": "relu", "normalisation": "instance"},
    **{"pooling": "avg", "pool_size": 2, "initialisation": "normal"},
}
OLD: dict[str, Any] = {
    **{"ipc": 2, "recipe": "atom", "matcher": "atom", "matcher_options": {"p_s": 4.0, "p_c": 4.0}, "seed": 3},
    **{"iterations": 6, "real_batch": 5, "image_lr": 0.1, "image_momentum": 0.5, "image_schedule": "constant"},
    **{"initialiser": "herding", "network": OLD_NETWORK, "augmentation": "none", "standardise": True, "zca_eps": None},
    **{"precision": "float32", "network_state": "random", "network_pool": 5, "inner_loop": 1, "network_epochs": 0},
    **{"network_lr": 0.01, "embedding": "random", "forgetting_epochs": 20, "memory_budget": None},
}


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({}, {"embedding": "random"}),
        ({"initialiser": "noise"}, {}),
        ({"initialiser": "forgetting"}, {"forgetting_epochs": 20}),
        ({"network_state": "trained:3"}, {"embedding": "random", "network_pool": 5}),
        ({"network_epochs": 2, "inner_loop": 3}, {"embedding": "random", "network_lr": 0.01, "network_momentum": 0.5}),
    ],
)
def test_a_config_of_the_release_before_is_read(choices: dict[str, Any], expected: dict[str, Any]) -> None:
    config = DistillConfig.from_json(json.loads(json.dumps({**OLD, **choices})))
    held = config.to_json()
    assert config.image_init == held["image_init"] == choices.get("initialiser", "herding")
    assert config.network.weight_init == held["network"]["weight_init"] == "normal"
    idle = {"embedding", "forgetting_epochs", "network_pool", "network_lr", "network_momentum"}
    assert {name: held[name] for name in idle & set(held)} == expected
    assert DistillConfig.from_json(held).differences(config) == []


@pytest.mark.parametrize(
    ("recipe", "ipc", "given", "expected"),
    [
        ("dsa-code", 10, {}, 0.0),
        ("dc-code", 10, {}, 0.5),
        ("dsa-code", 10, {"network_momentum": 0.9}, 0.9),
        ("dsa-code", 1, {}, None),  # a network per step, which is not trained
        ("dsa-code", 10, {"network_epochs": 0}, None),
        ("dsa-code", 1, {"inner_loop": 2, "network_epochs": 3}, 0.0),
    ],
)
def test_a_recipe_s_value_counts_where_its_choice_is_made(
    recipe: str, ipc: int, given: dict[str, Any], expected: float | None
) -> None:
    config = DistillConfig.from_recipe(recipe, ipc=ipc, image_shape=(3, 32, 32), **given)
    assert config.to_json().get("network_momentum") == expected


@pytest.mark.parametrize(
    ("ipc", "steps", "oldest", "rate", "eps"),
    [(1, 50, 1, 100.0, 0.1), (10, 30, 19, 100.0, 0.1), (50, 30, 39, 1000.0, None)],
)
def test_the_released_choices_of_mtt(ipc: int, steps: int, oldest: int, rate: float, eps: float | None) -> None:
    values = recipe_values("mtt-code", SHAPE, ipc)
    assert (values["matcher_options"]["student_steps"], values["matcher_options"]["oldest"]) == (steps, oldest)
    assert (values["image_lr"], values["zca_eps"], values["iterations"]) == (rate, eps, 5000)
    assert make_matcher(values["matcher"], values["matcher_options"])
    with pytest.raises(ConfigError, match=r"give a pool .* atom-cli pool make --every 1"):
        DistillConfig.from_recipe("mtt-code", ipc=ipc, image_shape=SHAPE)


@pytest.mark.parametrize("ipc", [1, 10])
def test_dcc_takes_the_loop_of_dc(ipc: int) -> None:
    ours, theirs = (
        DistillConfig.from_recipe(name, ipc=ipc, image_shape=SHAPE, precision="float32")
        for name in ("dcc-code", "dc-code")
    )
    assert [item.partition(":")[0] for item in ours.differences(theirs)] == ["recipe", "matcher"]


def test_a_config_of_a_newer_release_says_so() -> None:
    with pytest.raises(ConfigError, match=r"unheard_of.*update"):
        DistillConfig.from_json({**OLD, "unheard_of": 1})


def test_a_value_left_to_its_default_and_the_same_value_given_are_one_run() -> None:
    first, other = (small_config(network_state="trained:1", **given) for given in ({}, {"network_pool": 5}))
    assert first.differences(other) == []
    assert first.differences(replace(first, network_pool=2)) == ["network_pool: 5 given, 2 there"]
    assert replace(first, network_state="random").differences(first)  # what was not given stands in nobody's way


def test_a_selection_of_the_release_before_is_read_as_one_of_this() -> None:
    config = SelectConfig.from_json(OLD)
    assert (config.method, config.ipc, config.seed, config.network.weight_init) == ("herding", 2, 3, "normal")
    assert current_json("herding", OLD) == config.to_json()
    assert SelectConfig.from_json(config.to_json()).to_json() == config.to_json()
    assert set(config.to_json()) == {
        *("ipc", "factor", "storage", "seed", "method", "standardise", "zca_eps", "network", "precision", "embedding")
    }


def test_what_no_config_of_ours_is_stays_as_it_is() -> None:
    for stored in ({"merged": []}, {"ipc": 2, "note": 1}, {}):
        assert current_json("atom", stored) == stored


def test_the_network_of_an_old_set_is_found() -> None:
    made = selected_set(small_selection(), coloured_source())
    for config in (OLD, {"merged": [{"config": OLD}]}):
        old = replace(made, provenance=replace(made.provenance, config=config))
        assert network_of(old) == ConvNetConfig(depth=2, width=8, weight_init="normal")


def test_a_checkpoint_with_former_names_goes_on(tmp_path: Any) -> None:
    data, path = coloured_source(), tmp_path / "run.checkpoint"
    config = small_config(network={"weight_init": "normal"})
    whole = distill(config, data, device="cpu")
    distill(config, data, device="cpu", checkpoint=path, checkpoint_every=4)
    state = torch.load(path, weights_only=True)
    held = state["config"]
    held["initialiser"] = held.pop("image_init")
    held["network"]["initialisation"] = held["network"].pop("weight_init")
    held |= {"network_pool": 5, "network_lr": 0.01, "embedding": "random", "forgetting_epochs": 20}
    torch.save(state, path)
    assert Checkpoint.load(path).iteration == 4
    resumed = distill(config, data, device="cpu", checkpoint=path, resume=True)
    assert torch.equal(resumed.images, whole.images)


@pytest.mark.parametrize("method", METHODS)
def test_a_selection_says_what_it_used_and_nothing_of_a_loop(method: str) -> None:
    held = selected_set(small_selection(method=method), coloured_source()).provenance
    assert held.method == held.config["method"] == method
    assert not set(held.config) & {"iterations", "matcher", "matcher_options", "image_lr", "real_batch", "image_init"}


@pytest.mark.parametrize(
    ("recipe", "ipc", "expected"),
    [
        ("idm", 1, {"real_batch": 5000, "queue_every": 5, "calibration": 500.0, "factor": 2}),
        ("idm", 10, {"real_batch": 256, "queue_every": 30, "calibration": 500.0, "calibration_by_accuracy": True}),
        ("idm", 50, {"real_batch": 256, "queue_every": 30, "calibration": 100.0, "network_state": "queue"}),
        ("m3d", 10, {"inner_loop": 5, "share_real": False, "storage": "uint8", "factor": 2, "image_lr": 160.0}),
    ],
)
def test_recipes_of_better_matching_name_their_sources_choices(recipe, ipc, expected):
    stored = DistillConfig.from_recipe(recipe, ipc=ipc, image_shape=(3, 32, 32), precision="float32").to_json()
    assert {name: stored[name] for name in expected} == expected
    odd = DistillConfig.from_recipe(recipe, ipc=ipc, image_shape=(3, 7, 8), precision="float32")
    assert odd.factor == 1


@pytest.mark.parametrize("recipe", ["idm", "m3d"])
def test_recipes_of_better_matching_run(recipe):
    quick = {"iterations": 2, "real_batch": 4, "network": {"width": 8, "depth": 2}, "precision": "float32"}
    config = DistillConfig.from_recipe(recipe, ipc=2, image_shape=(3, 8, 8), **quick)
    made = distill(config, coloured_source(), device="cpu")
    assert made.provenance.config["recipe"] == recipe
    assert made.decoded_count == 24

"""Attention terms in every combination of norm, error, weight and layers; and each ablation of the papers as one config."""

import itertools
import re
from pathlib import Path

import pytest
import torch
from literal import CLASSES, channel, class_mean, distance, features, spatial, with_gradient

from atom_plugin.cli.distill_options import config_options
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.errors import ConfigError
from atom_plugin.matchers import make_matcher
from atom_plugin.models.features import Features


def normalised(z, norm):
    length = {"l2": sum(v * v for v in z) ** 0.5, "l1": sum(abs(v) for v in z), "none": 1.0}[norm]
    return [v / length for v in z]


def error(real, synthetic, kind):
    total = 0.0
    for k in range(CLASSES):
        a, b = class_mean(real, k), class_mean(synthetic, k)
        if kind == "squared":
            total = total + sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
        elif kind == "absolute":
            total = total + sum(abs(x - y) for x, y in zip(a, b, strict=True))
        else:
            inner = sum(x * y for x, y in zip(a, b, strict=True))
            total = total + 1 - inner / (sum(x * x for x in a) ** 0.5 * sum(y * y for y in b) ** 0.5)
    return total


def oracle(real, synthetic, terms, layers, balance):
    """``terms``: (map function, power, weight, norm, error)."""
    total = 0.0
    for layer, (function, power, weight, norm, kind) in itertools.product(layers, terms):
        z = [[normalised(function(i, power), norm) for i in side.maps[layer - 1]] for side in (real, synthetic)]
        total = total + weight * error(*z, kind)
    return total + balance * distance(list(real.embedding), list(synthetic.embedding))


@pytest.mark.parametrize("kind", ["squared", "absolute", "cosine"])
@pytest.mark.parametrize("norm", ["l2", "l1", "none"])
def test_both_terms_with_settings_of_their_own(norm, kind):
    others = (
        {"l2": "l1", "l1": "none", "none": "l2"},
        {"squared": "cosine", "cosine": "absolute", "absolute": "squared"},
    )
    options = {
        **{"p_s": 2.0, "weight_s": 0.5, "norm_s": norm, "error_s": kind},
        **{"p_c": 1.0, "weight_c": 3.0, "norm_c": others[0][norm], "error_c": others[1][kind]},
        **{"task_balance": 0.2, "loss_scale": 1.0},
    }
    terms = [(spatial, 2, 0.5, norm, kind), (channel, 1, 3.0, others[0][norm], others[1][kind])]
    real, given = features(0, 4), features(1, 3)
    ours, theirs = with_gradient(given), with_gradient(given)
    loss, expected = make_matcher("atom", options)(real, ours), oracle(real, theirs, terms, [1, 2], 0.2)
    torch.testing.assert_close(loss, expected, rtol=1e-11, atol=0)
    loss.backward()
    expected.backward()
    for mine, other in zip(ours.maps[:-1], theirs.maps[:-1], strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("layers", [[1], [2], [3], [1, 3], (2, 1)])
def test_only_the_named_layers_are_matched(layers):
    real, synthetic = features(0, 4), features(1, 3)
    loss = make_matcher("datadam", {"p_s": 2.0, "layers": layers, "loss_scale": 1.0})(real, synthetic)
    torch.testing.assert_close(loss, oracle(real, synthetic, [(spatial, 2, 1.0, "l2", "squared")], layers, 0.01))


def test_a_layer_that_the_network_lacks_is_refused():
    with pytest.raises(ConfigError, match="name block 4, the network has 3"):
        make_matcher("atom", {"layers": [4]})(features(0, 2), features(1, 2))


@pytest.mark.parametrize("kind", ["absolute", "cosine"])
def test_sides_of_different_shape_are_refused(kind):
    real, synthetic = features(0, 4), features(1, 4)
    cut = Features(
        maps=(synthetic.maps[0][:, :, :2], *synthetic.maps[1:]), embedding=synthetic.embedding, groups=CLASSES
    )
    with pytest.raises(ConfigError, match="the same classes, image size and network"):
        make_matcher("datadam", {"error_s": kind})(real, cut)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("atom", {"norm_s": "l3"}, "norm_s must be one of l2, l1, none, not 'l3'"),
        ("atom", {"norm_c": ["l2"]}, "norm_c must be one of"),
        ("atom", {"error_c": "huber"}, "error_c must be one of squared, absolute, cosine, not 'huber'"),
        ("atom", {"weight_c": -1}, "weight_c must be 0 or more"),
        ("atom", {"weight_s": "heavy"}, "matcher 'atom' does not accept"),
        ("atom", {"weight_s": True}, "weight_s must be 0 or more, not True"),
        ("atom", {"layers": []}, "layers must be a list of block numbers from 1"),
        ("atom", {"layers": 2}, "layers must be a list of block numbers from 1"),
        ("atom", {"layers": [0]}, "layers must be a list of block numbers from 1"),
        ("atom", {"layers": [1, 1]}, "layers must be a list of block numbers from 1, each once"),
        ("atom-channel", {"weight_s": 2.0}, "weight_s belongs to an attention that is left out; give p_s"),
        ("datadam", {"error_c": "cosine"}, "error_c belongs to an attention that is left out; give p_c"),
        ("datadam", {"weight_s": 0, "task_balance": 0}, "all terms have weight 0"),
        ("atom", {"p_s": None, "p_c": None, "task_balance": 0.0}, "all terms have weight 0"),
        ("atom", {"p_s": "four"}, "matcher 'atom' does not accept"),
    ],
)
def test_impossible_options_are_one_line(name, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_matcher(name, options)
    assert "\n" not in str(caught.value)


PAGE = (Path(__file__).parents[3] / "docs" / "recipes.md").read_text(encoding="utf-8")
# Rows of docs/recipes.md: "| what the paper varies | its value | `options` |".
ABLATIONS = re.findall(r"^\| ((?:ATOM|DataDAM),[^|]*) \| ([^|]*) \| `([^`]*)`[^|]* \|$", PAGE, re.M)


def parsed(text: str) -> DistillConfig:
    """The config that ``atom-cli distill --ipc 10 TEXT`` would run with on 32x32 colour images."""
    import click

    from atom_plugin.datasets import SourceData, Split

    command = click.command()(config_options(lambda **given: given))
    images, labels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    split = Split(images=images, labels=labels)
    data = SourceData(name="x", train=split, test=split, class_names=("a",), fingerprint="0123456789abcdef", options={})
    config: DistillConfig = command.main(["--ipc", "10", *text.split()], standalone_mode=False)["chosen"].config(data)
    return config


@pytest.mark.parametrize(("study", "value", "options"), ABLATIONS)
def test_every_ablation_of_the_papers_is_one_config(study, value, options):
    config = parsed(options)
    matcher = make_matcher(config.matcher, config.matcher_options)
    assert matcher is not None
    assert DistillConfig.from_json(config.to_json()).differences(config) == []


def test_the_table_holds_all_studies_and_no_config_twice():
    studies = {}
    for study, value, options in ABLATIONS:
        studies.setdefault(study.partition(":")[0], []).append((value, options))
    assert {name: len(rows) for name, rows in studies.items()} == {
        "ATOM, table 4": 5,
        "ATOM, table 5": 16,
        "DataDAM, table 5": 4,
        "DataDAM, table 6": 5,
        "DataDAM, table 7": 2,
        "DataDAM, table 11": 1,
        "DataDAM, figure 3": 3,
        "DataDAM, figure 4": 2,
        "DataDAM, figure 8": 4,
        "DataDAM, figure 12": 3,
        "DataDAM, figure 13": 3,
    }
    for rows in studies.values():
        configs = [repr(parsed(options)) for _, options in rows]
        assert len(set(configs)) == len(configs)


@pytest.mark.parametrize(("matcher", "power"), [("atom-channel", "p_s"), ("datadam", "p_c")])
def test_a_matcher_of_one_attention_refuses_the_others_power(matcher, power):
    assert getattr(make_matcher(matcher), power) is None
    with pytest.raises(ConfigError, match=rf"{power} \(4.0\).*matcher atom"):
        make_matcher(matcher, {power: 4.0})

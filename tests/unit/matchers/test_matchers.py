"""Every loss against a slow, literal transcription of the papers' equations, in float64."""

import math

import pytest
import torch
from literal import CLASSES, LAYERS, channel, distance, features, spatial, unit, whole, with_gradient

from atom_plugin.errors import ConfigError, PluginError
from atom_plugin.matchers import MATCHERS, make_matcher, matcher_options
from atom_plugin.models.features import Features


def oracle(real, synthetic, terms, balance, scale):
    """``terms``: pairs (map function, power); eq. (3) and (4)."""
    attention = 0.0
    for layer in range(LAYERS - 1):
        for function, power in terms:
            z_real = [unit(function(image, power)) for image in real.maps[layer]]
            z_synthetic = [unit(function(image, power)) for image in synthetic.maps[layer]]
            attention = attention + distance(z_real, z_synthetic)
    mmd = distance(list(real.embedding), list(synthetic.embedding))
    return scale * (attention + balance * mmd)


CASES = [
    ("atom", {}, [(spatial, 4), (channel, 4)], 0.01, 100.0),
    ("atom", {"p_s": 1.0, "p_c": 8.0, "loss_scale": 1.0}, [(spatial, 1), (channel, 8)], 0.01, 1.0),
    ("atom", {"p_s": 2.0, "p_c": 3.0, "task_balance": 0.5}, [(spatial, 2), (channel, 3)], 0.5, 100.0),
    ("atom-channel", {"p_c": 2.0}, [(channel, 2)], 0.01, 100.0),
    ("datadam", {"p_s": 1.0}, [(spatial, 1)], 0.01, 100.0),
    ("datadam", {"p_s": 8.0, "task_balance": 0.0}, [(spatial, 8)], 0.0, 100.0),
    ("dm", {}, [], 1.0, 1.0),
    ("feature", {}, [(whole, None)], 0.01, 100.0),
]


@pytest.mark.parametrize(("name", "options", "terms", "balance", "scale"), CASES)
def test_loss_and_gradient_equal_the_papers_equation(name, options, terms, balance, scale):
    real, given = features(0, 4), features(1, 3)
    ours, theirs = with_gradient(given), with_gradient(given)
    loss = make_matcher(name, options)(real, ours)
    expected = oracle(real, theirs, terms, balance, scale)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    loss.backward()
    expected.backward()
    for mine, other in zip((*ours.maps, ours.embedding), (*theirs.maps, theirs.embedding), strict=True):
        if other.grad is None:  # the last map: matched through the embedding only
            assert mine.grad is None
        else:
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-9, atol=1e-12)


def test_raw_feature_maps_are_an_option():
    real, synthetic = features(0, 4), features(1, 3)
    raw = [distance([whole(i, 0) for i in real.maps[n]], [whole(i, 0) for i in synthetic.maps[n]]) for n in range(2)]
    loss = make_matcher("feature", {"normalise": False, "task_balance": 0.0, "loss_scale": 1.0})(real, synthetic)
    torch.testing.assert_close(loss, torch.as_tensor(sum(raw)))


@pytest.mark.parametrize("name", ["atom", "atom-channel", "datadam", "dm", "feature"])
def test_equal_sides_cost_nothing_and_real_gets_no_gradient(name):
    same = with_gradient(features(3, 4))
    synthetic = with_gradient(features(3, 4))
    loss = make_matcher(name)(same, synthetic)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-20)
    loss.backward()
    assert all(item.grad is None for item in (*same.maps, same.embedding))


def test_bfloat16_maps_are_reduced_in_float32():
    real, synthetic = features(0, 64, dtype=torch.bfloat16), features(1, 64, dtype=torch.bfloat16)
    loss = make_matcher("atom")(real, synthetic)
    assert loss.dtype == torch.float32
    wide = [
        Features(maps=tuple(m.double() for m in f.maps), embedding=f.embedding.double(), groups=CLASSES)
        for f in (real, synthetic)
    ]
    torch.testing.assert_close(loss.double(), make_matcher("atom")(*wide), rtol=1e-5, atol=0)


def test_a_dead_map_gives_a_finite_loss_and_gradient():
    real, synthetic = features(0, 4), with_gradient(features(1, 3))
    dead = Features(
        maps=tuple(torch.zeros_like(m).requires_grad_() for m in synthetic.maps),
        embedding=synthetic.embedding,
        groups=CLASSES,
    )
    loss = make_matcher("atom")(real, dead)
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert all(torch.isfinite(m.grad).all() for m in dead.maps[:-1])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("atom", {"p_s": 0.5}, "p_s must be at least 1"),
        ("atom", {"loss_scale": -1.0}, "loss_scale must be 0 or more"),
        ("atom", {"p_s": math.nan}, "p_s must be at least 1"),
        ("dm", {"loss_scale": -1.0}, "loss_scale must be 0 or more"),
        ("dm", {"p_s": 1.0}, "it takes the options loss_scale"),
        ("feature", {"task_balance": -1.0}, "task_balance must be 0 or more"),
    ],
)
def test_impossible_options_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        make_matcher(name, options)


def test_unknown_matcher_gets_a_suggestion():
    with pytest.raises(PluginError, match="did you mean 'datadam'"):
        make_matcher("datadm")


def test_sides_of_different_shape_are_refused():
    real, synthetic = features(0, 4), features(1, 4)
    cut = Features(maps=synthetic.maps, embedding=synthetic.embedding[:, :2], groups=CLASSES)
    with pytest.raises(ConfigError, match="the same classes, image size and network"):
        make_matcher("dm")(real, cut)


def test_features_refuse_unequal_classes():
    with pytest.raises(ConfigError, match="do not split into 2 classes"):
        Features(maps=(), embedding=torch.zeros(3, 2), groups=2)


def test_all_built_in_matchers_describe_themselves():
    built_in = [
        *("atom", "atom-channel", "cafe", "datadam", "dc", "dcc", "dd", "dm", "dsa", "feature", "frepo", "ld"),
        *("mmd-pixel", "mtt"),
    ]
    assert set(built_in) <= set(MATCHERS.names())
    for name in built_in:
        assert not MATCHERS.describe(name).startswith("unusable")
        assert "loss_scale" in matcher_options(name)


@pytest.mark.parametrize("name", MATCHERS.names())
def test_a_matchers_line_in_the_listing_is_for_users(name):
    assert "Raises" not in MATCHERS.describe(name) and "``" not in MATCHERS.describe(name)


def test_a_plugins_option_of_another_type_is_a_wrong_option():
    class Plain:
        """A matcher that checks nothing."""

        def __init__(self, balance: float = 1.0) -> None:
            self.balance = balance

    name = "plain-of-this-test"
    if name not in MATCHERS.names():
        MATCHERS.register(name)(Plain)
    with pytest.raises(ConfigError, match=r"does not accept balance='x'; it must be a number .default: 1\.0"):
        make_matcher(name, {"balance": "x"})
    assert make_matcher(name, {"balance": 2}).balance == 2

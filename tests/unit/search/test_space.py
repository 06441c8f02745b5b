"""Which candidates a space has, picks and draws."""

from __future__ import annotations

import pytest

from atom_plugin.errors import AtomError, ConfigError
from atom_plugin.evaluation import NamedModel
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.search import Space


def toml(tmp_path, text):
    file = tmp_path / "space.toml"
    file.write_text(text)
    return file


def test_the_papers_space_has_720_candidates_of_distinct_names_and_networks():
    space = Space.named("convnet-720")
    assert len(space) == 720
    assert len({each.name for each in space}) == len({each.network for each in space}) == 720
    assert {each.model for each in space} == {"convnet"}
    first, *_, last = space
    assert first.name == "depth=1,width=32,activation=sigmoid,normalisation=none,pooling=none"
    assert last.network == ConvNetConfig(
        depth=4, width=256, activation="leakyrelu", normalisation="group", pooling="avg"
    )


@pytest.mark.parametrize(
    ("conditions", "count"),
    [
        ("depth=3", 180),
        ("depth=3,width=64|128", 90),
        (" depth = 3 , normalisation = none ", 36),
        ("pooling=max|avg|none", 720),
        ("depth=1,width=32,activation=relu,normalisation=batch,pooling=avg", 1),
    ],
)
def test_a_pick_has_the_candidates_that_meet_all_conditions(conditions, count):
    assert len(Space.named("convnet-720").pick(conditions)) == count


def test_a_candidates_name_picks_it():
    space = Space.named("convnet-720")
    chosen = space.candidates[345]
    assert list(space.pick(chosen.name)) == [chosen]


@pytest.mark.parametrize(
    ("conditions", "words"),
    [
        ("dept=3", "no field of the space is called 'dept'; did you mean 'depth'"),
        ("depth=7", "no candidate has depth=7; depth is one of 1, 2, 3, 4"),
        ("depth", "must be FIELD=VALUE or FIELD=VALUE|VALUE, not 'depth'"),
        ("depth=1,depth=2", "no candidate of convnet-720 meets 'depth=1,depth=2'"),
    ],
)
def test_a_pick_that_means_nothing_is_refused(conditions, words):
    with pytest.raises(ConfigError) as raised:
        Space.named("convnet-720").pick(conditions)
    assert words in str(raised.value)


def test_a_larger_sample_holds_a_smaller_one_and_a_pick_keeps_the_order():
    space = Space.named("convnet-720")
    large = list(space.sample(100, seed=3))
    assert len({each.name for each in large}) == 100
    assert list(space.sample(10, seed=3)) == large[:10]
    assert list(space.sample(10, seed=4)) != large[:10]
    picked = [each for each in space.sample(720, seed=3) if each.fields["depth"] == 2]
    assert list(space.pick("depth=2").sample(180, seed=3)) == picked


@pytest.mark.parametrize("count", [0, 721])
def test_a_sample_has_no_more_candidates_than_there_are(count):
    with pytest.raises(ConfigError, match=rf"{count} .*720"):
        Space.named("convnet-720").sample(count)


def test_an_unknown_space_is_told_from_a_file():
    with pytest.raises(ConfigError, match=r"'convnet-72'; did you mean 'convnet-720'.*TOML"):
        Space.named("convnet-72")


def test_a_file_describes_a_grid_and_models(tmp_path):
    text = (
        'models = ["vit", "timm:resnet10t", "vgg11"]\n[convnet]\ndepth = [1, 2]\nnormalisation = "batch"\nwidth = [8]\n'
    )
    space = Space.from_toml(toml(tmp_path, text))
    assert space.name == "space"
    assert [each.name for each in space] == [
        "depth=1,normalisation=batch,width=8",
        "depth=2,normalisation=batch,width=8",
        "vit",
        "timm:resnet10t",
        "vgg11",
    ]
    assert space.candidates[1].network == ConvNetConfig(depth=2, normalisation="batch", width=8)
    assert space.candidates[4].network == NamedModel(name="vgg11", normalisation="instance")
    assert [each.model for each in space] == ["convnet", "convnet", "vit", "timm:resnet10t", "vgg11"]
    assert [each.name for each in space.pick("model=vit|vgg11")] == ["vit", "vgg11"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "describes no candidate"),
        ("[convnets]\ndepth = 1\n", "'convnets'; did you mean 'convnet'"),
        ("[convnet]\nwidht = 3\n", "no field of a ConvNet is called 'widht'; did you mean 'width'"),
        ("[convnet]\nwidth = [6]\nnormalisation = ['group']\n", "width must be a multiple of 4"),
        ("[convnet]\ndepth = ['two']\n", "depth must be a whole number, not 'two'"),
        ("[convnet]\ndepth = []\n", "without a value"),
        ("[convnet]\ndepth = [1, 1]\n", "depth=1 is named twice"),
        ("convnet = 3\n", "convnet must be a table of fields"),
        ('models = "vit"\n', "models must be a list of names, not 'vit'"),
        ('models = ["vit", "vit"]\n', "vit is named twice"),
        ('models = ["convnet"]\n', "describe it in a table [convnet]"),
        ('models = ["resnet19"]\n', "no model is called 'resnet19'; did you mean 'resnet18'"),
        ("depth = [1,\n", "is not TOML"),
        (
            f"[convnet]\nwidth = {list(range(1, 401))}\ndepth = {[1] * 400}\n",
            "describes 160,000 ConvNets, expected at most",
        ),
    ],
)
def test_a_file_that_describes_no_space_is_one_line_with_its_name(tmp_path, text, words):
    with pytest.raises(AtomError) as raised:
        Space.from_toml(toml(tmp_path, text))
    assert words in str(raised.value)
    assert str(raised.value).count("space.toml") == 1

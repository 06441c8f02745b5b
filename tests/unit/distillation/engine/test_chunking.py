import pytest
import torch
from small import small_config

from atom_plugin.distillation.engine import choose_engine, chunking
from atom_plugin.distillation.engine.chunking import PassSize
from atom_plugin.distillation.engine.plain_engine import PlainEngine
from atom_plugin.errors import ConfigError
from atom_plugin.matchers import make_matcher
from atom_plugin.runtime import distributed

SHAPE = (3, 8, 8)


def measured(config, matcher=None):
    """The matcher, the engine and the size of a pass of a config's run on a CPU."""
    matcher = matcher or make_matcher(config.matcher, config.matcher_options)
    network = config.network.build(SHAPE, 7)
    engine = choose_engine("auto", network, network.features, torch.device("cpu"))
    return matcher, engine, PassSize.of(matcher, engine, SHAPE, real_batch=config.real_batch, ipc=config.ipc)


def need(config, classes=1):
    return measured(config)[2].bytes_of(classes)


def planned(config, budget=None, classes=7, matcher=None):
    return chunking.plan(classes, *measured(config, matcher), budget=budget)


def test_without_a_budget_all_classes_pass_together():
    plan = planned(small_config())
    assert (plan.owners, plan.own_chunks) == ((range(7),), (range(7),))
    assert plan.images(ipc=2) == [range(14)]


@pytest.mark.parametrize(("classes", "sizes"), [(7, [7]), (6, [3, 4]), (3, [2, 2, 3]), (1, [1] * 7)])
def test_a_budget_for_so_many_classes_gives_chunks_of_at_most_these(classes, sizes):
    config = small_config()
    for slack in (0, need(config) - need(config, 0) - 1):
        chunks = planned(config, need(config, classes) + (slack if classes < 7 else 0)).own_chunks
        assert [len(chunk) for chunk in chunks] == sizes
        assert [k for chunk in chunks for k in chunk] == list(range(7))


def test_classes_are_dealt_evenly_among_processes(monkeypatch):
    monkeypatch.setattr(distributed, "_count", 3)
    monkeypatch.setattr(distributed, "_rank", 1)
    config = small_config()
    plan = planned(config, need(config, 2))
    assert plan.owners == (range(2), range(2, 4), range(4, 7))
    assert plan.own == range(2, 4)
    assert plan.own_chunks == (range(2, 4),)
    assert plan.images(ipc=10) == [range(20), range(20, 40), range(40, 70)]


def test_a_class_needs_what_is_counted():
    config = small_config(ipc=3, real_batch=5)  # maps of 8 x 8 x 8 and 8 x 4 x 4, images of 3 x 8 x 8
    # The first map is matched: 64 places and 8 channels. The embedding has 8 x 2 x 2 values.
    images, maps, descriptors = 192, 512 + 128, 64 + 8 + 32
    assert need(config, 2) == 4 * 2 * 8 * (7 * images + 3 * maps + 4 * descriptors)
    of_images = small_config(ipc=3, real_batch=5, matcher="dc")
    assert need(of_images, 2) == 4 * 2 * 8 * (7 * images + 3 * maps)


def test_a_budget_below_one_class_says_the_least_that_does():
    with pytest.raises(
        ConfigError, match=r"budget of 1 KB .* about (.*) \(5 real and 2 syn.*--memory-budget"
    ) as caught:
        planned(small_config(), 1000)
    least = caught.value.args[0].rpartition("--memory-budget ")[2].split()[0]
    assert len(planned(small_config(), int(float(least[:-2]) * 1000)).own_chunks) == 7


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"matcher": "cafe"}, "Cafe compares all classes at once, which is impossible with a memory budget"),
        ({"matcher": "dc", "network": {"normalisation": "batch"}}, "--normalisation"),
        ({"network": {"normalisation": "batch"}}, "batch normalisation .* one pass.*--normalisation instance"),
    ],
)
def test_classes_that_must_pass_together_are_not_split_unless_all_fit(overrides, message):
    config = small_config(**overrides)
    with pytest.raises(ConfigError, match=message):
        planned(config, need(config, 3))
    assert planned(config, need(config, 7)).own_chunks == (range(7),)


def test_a_matcher_that_says_nothing_is_not_split():
    config = small_config()
    with pytest.raises(ConfigError, match="compares all classes at once"):
        planned(config, need(config, 3), matcher=lambda real, synthetic: synthetic.embedding.sum())


def test_a_pass_of_another_network_is_not_estimated():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten())
    matcher, engine, size = measured(small_config())
    other = PlainEngine(network, engine.features)
    with pytest.raises(ConfigError, match="for the ConvNet, not for Sequential; leave out the memory budget"):
        chunking.plan(7, matcher, other, size, budget=10**9)
    assert chunking.plan(7, matcher, other, size, budget=None).own_chunks == (range(7),)


@pytest.mark.parametrize(
    ("size", "text"),
    [(999, "999 B"), (1000, "1 KB"), (3_241_000, "3.25 MB"), (2 * 10**9, "2 GB"), (10**16, "10000 TB")],
)
def test_sizes_are_rounded_up(size, text):
    assert chunking.readable(size) == text

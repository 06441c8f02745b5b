import dataclasses

import pytest
import torch
from small import small_config

from atom_plugin.distillation.engine import chunking
from atom_plugin.errors import ConfigError
from atom_plugin.matchers import MATCHERS, make_matcher
from atom_plugin.runtime import distributed

SHAPE = (3, 8, 8)


def planned(config, classes=7):
    matcher = make_matcher(config.matcher, config.matcher_options)
    return chunking.plan(config, classes, SHAPE, matcher, config.network.build(SHAPE, classes))


def need(config, classes=1):
    matcher = make_matcher(config.matcher, config.matcher_options)
    return chunking.bytes_of_pass(config, SHAPE, matcher, config.network.build(SHAPE, 7), classes)


def test_without_a_budget_all_classes_pass_together():
    plan = planned(small_config())
    assert (plan.owners, plan.chunks, plan.chunked) == ((range(7),), (range(7),), False)
    assert plan.images(ipc=2) == [range(14)]


@pytest.mark.parametrize(("classes", "sizes"), [(7, [7]), (6, [3, 4]), (3, [2, 2, 3]), (1, [1] * 7)])
def test_a_budget_for_so_many_classes_gives_chunks_of_at_most_these(classes, sizes):
    config = small_config()
    for slack in (0, need(config) - need(config, 0) - 1):
        plan = planned(dataclasses.replace(config, memory_budget=need(config, classes) + (slack if classes < 7 else 0)))
        assert [len(chunk) for chunk in plan.chunks] == sizes
        assert [k for chunk in plan.chunks for k in chunk] == list(range(7))
        assert plan.chunked == (len(sizes) > 1)


def test_classes_are_dealt_evenly_among_processes(monkeypatch):
    monkeypatch.setattr(distributed, "_count", 3)
    monkeypatch.setattr(distributed, "_rank", 1)
    config = small_config()
    plan = planned(dataclasses.replace(config, memory_budget=need(config, 2)))
    assert plan.owners == (range(2), range(2, 4), range(4, 7))
    assert plan.own == range(2, 4)
    assert plan.chunks == (range(2, 4),)
    assert plan.chunked  # the third process needs two passes
    assert plan.images(ipc=10) == [range(20), range(20, 40), range(40, 70)]


def test_a_class_needs_what_is_counted():
    config = small_config(ipc=3, real_batch=5)  # maps of 8 x 8 x 8 and 8 x 4 x 4, images of 3 x 8 x 8
    # The first map is matched: 64 places and 8 channels. The embedding has 8 x 2 x 2 values.
    images, maps, descriptors = 192, 512 + 128, 64 + 8 + 32
    assert need(config, 2) == 4 * 2 * (7 * 8 * images + 3 * (3 * maps + 4 * descriptors)) + 6 * 4 * 2 * 5 * 512
    tied = small_config(ipc=3, real_batch=5, network={"normalisation": "batch"})
    assert need(tied, 2) == 4 * 2 * (7 * 8 * images + 3 * (8 * maps + 4 * descriptors) + 5 * 128) + 6 * 4 * 2 * 5 * 512
    held_by_images = small_config(ipc=3, real_batch=5, matcher="dc")
    assert need(held_by_images, 2) == 4 * 2 * (7 * 8 * images + 3 * 8 * maps)


def test_a_budget_below_one_class_says_the_least_that_does():
    config = small_config()
    with pytest.raises(
        ConfigError, match=r"budget of 1 KB is less than one class takes, about (.*) \(5 real and 2 syn"
    ) as e:
        planned(dataclasses.replace(config, memory_budget=1000))
    least = e.value.args[0].rpartition("--memory-budget ")[2].split()[0]
    assert len(planned(dataclasses.replace(config, memory_budget=int(float(least[:-2]) * 1000))).chunks) == 7


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"matcher": "cafe"}, "matcher 'cafe' compares all classes at once, which a memory budget of .* cannot"),
        ({"matcher": "dc", "network": {"normalisation": "batch"}}, "'dc' fixes batch normalisation by images of all"),
    ],
)
def test_a_loss_that_does_not_separate_is_refused_unless_all_classes_fit(overrides, message):
    config = small_config(**overrides)
    with pytest.raises(ConfigError, match=message):
        planned(dataclasses.replace(config, memory_budget=need(config, 3)))
    assert not planned(dataclasses.replace(config, memory_budget=need(config, 7))).chunked


def test_a_matcher_that_says_nothing_is_not_split():
    MATCHERS.register("says-nothing")(lambda: lambda real, synthetic: synthetic.embedding.sum())
    config = dataclasses.replace(small_config(), matcher="says-nothing", matcher_options={})
    with pytest.raises(ConfigError, match="compares all classes at once"):
        planned(dataclasses.replace(config, memory_budget=need(config, 3)))


@pytest.mark.parametrize(
    ("size", "text"),
    [(999, "999 B"), (1000, "1 KB"), (3_241_000, "3.25 MB"), (2 * 10**9, "2 GB"), (10**16, "10000 TB")],
)
def test_sizes_are_rounded_up(size, text):
    assert chunking.readable(size) == text


def test_batch_normalisation_is_found():
    assert chunking.batch_normalised(torch.nn.Sequential(torch.nn.BatchNorm2d(3)))
    assert not chunking.batch_normalised(torch.nn.GroupNorm(1, 3))

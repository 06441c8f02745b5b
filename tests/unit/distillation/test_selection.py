"""Selection against literal, loop-written oracles in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from selection_oracles import herding_oracle, k_center_oracle

from atom_plugin.distillation.selection import (
    METHODS,
    forgetting_indices,
    herding_indices,
    k_center_indices,
    random_indices,
    select,
)
from atom_plugin.errors import ConfigError, SourceError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample(count: int = 60, classes: int = 3, dimensions: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = generator(seed)
    labels = torch.arange(count)[torch.randperm(count, generator=draw)] % classes
    return torch.randn(count, dimensions, generator=draw), labels


@pytest.mark.parametrize("ipc", [1, 2, 7, 20])
@pytest.mark.parametrize("seed", range(3))
def test_herding_is_the_literal_algorithm(ipc: int, seed: int) -> None:
    embeddings, labels = sample(seed=seed)
    assert herding_indices(embeddings, labels, ipc).tolist() == herding_oracle(embeddings, labels, ipc)


@pytest.mark.parametrize("ipc", [1, 2, 7, 20])
@pytest.mark.parametrize("seed", range(3))
def test_k_center_is_the_literal_algorithm(ipc: int, seed: int) -> None:
    embeddings, labels = sample(seed=seed)
    assert k_center_indices(embeddings, labels, ipc).tolist() == k_center_oracle(embeddings, labels, ipc)


@pytest.mark.parametrize("ipc", [1, 2, 7, 20])
@pytest.mark.parametrize("seed", range(3))
def test_forgetting_takes_the_most_forgotten_of_each_class(ipc: int, seed: int) -> None:
    _, labels = sample(seed=seed)
    draw = generator(seed)
    # Distinct counts, so that no draw decides; two samples were never learnt.
    events = torch.randperm(60, generator=draw).double()
    events[torch.randperm(60, generator=draw)[:2]] = torch.inf
    chosen = forgetting_indices(events, labels, ipc, draw).view(3, ipc).tolist()
    for label, picked in enumerate(chosen):
        members = [index for index, of in enumerate(labels.tolist()) if of == label]
        left = [float(events[index]) for index in members if index not in picked]
        ranked = [float(events[index]) for index in picked]
        assert set(picked) <= set(members)
        assert ranked == sorted(ranked, reverse=True)
        assert not left or min(ranked) >= max(left)


def test_equally_forgotten_samples_are_drawn() -> None:
    labels = torch.zeros(20, dtype=torch.int64)
    events = torch.tensor([3.0, *[1.0] * 18, 2.0])
    draw = generator()
    counts = torch.zeros(20)
    for _ in range(300):
        chosen = forgetting_indices(events, labels, 5, draw)
        assert chosen[:2].tolist() == [0, 19]
        counts[chosen] += 1
    # Each of 18 is one of 3: 50 of 300, standard deviation 6.5.
    assert (counts[1:19] - 50).abs().max() < 30
    assert torch.equal(
        forgetting_indices(events, labels, 5, generator(3)), forgetting_indices(events, labels, 5, generator(3))
    )


def test_herding_matches_the_mean_better_than_chance() -> None:
    embeddings, labels = sample(count=900, dimensions=8)
    goal = torch.stack([embeddings[labels == label].mean(0) for label in range(3)])

    def error(chosen: torch.Tensor) -> float:
        return float((embeddings[chosen].view(3, 10, -1).mean(1) - goal).norm())

    assert error(herding_indices(embeddings, labels, 10)) < error(random_indices(labels, 10, generator())) / 3


def test_ties_go_to_the_lowest_index() -> None:
    # Mean 0; the samples lie in pairs opposite each other, exactly, and each stands there twice.
    embeddings = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]] * 2)
    labels = torch.zeros(8, dtype=torch.int64)
    assert herding_indices(embeddings, labels, 4).tolist() == [0, 1, 2, 3]
    assert k_center_indices(embeddings, labels, 8).tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    alike = torch.zeros(8, 2)
    assert herding_indices(alike, labels, 8).tolist() == list(range(8))
    assert k_center_indices(alike, labels, 8).tolist() == list(range(8))


def test_k_center_with_a_generator_starts_where_it_draws() -> None:
    embeddings, labels = sample()
    starts = {int(k_center_indices(embeddings, labels, 3, generator(seed))[0]) for seed in range(20)}
    assert len(starts) > 5
    assert torch.equal(
        k_center_indices(embeddings, labels, 3, generator(1)), k_center_indices(embeddings, labels, 3, generator(1))
    )


def test_random_is_reproducible_and_uniform() -> None:
    labels = torch.tensor([1, 0] * 10)
    assert torch.equal(random_indices(labels, 4, generator(3)), random_indices(labels, 4, generator(3)))
    draw = generator()
    counts = torch.zeros(20)
    for _ in range(500):
        counts[random_indices(labels, 4, draw)] += 1
    # Each of 10 is drawn 4 times in 10: 200 of 500, standard deviation 11.
    assert (counts - 200).abs().max() < 45


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(2, 9), min_size=1, max_size=5), st.sampled_from(METHODS), st.integers(0, 2**30))
def test_every_method_gives_distinct_samples_class_by_class(counts: list[int], method: str, seed: int) -> None:
    ipc, draw = min(counts), generator(seed)
    # Labels with gaps, in any order.
    labels = torch.cat([torch.full((count,), 3 * label) for label, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=draw)]
    embeddings = torch.randn(len(labels), 4, generator=draw)
    events = torch.randint(3, (len(labels),), generator=draw).double()
    chosen = select(method, labels, ipc, generator=draw, embeddings=embeddings, events=events)
    assert chosen.dtype == torch.int64
    assert labels[chosen].tolist() == [3 * label for label in range(len(counts)) for _ in range(ipc)]
    assert len(set(chosen.tolist())) == len(chosen)


def test_select_is_the_named_function_and_embeddings_leave_nothing_to_draw() -> None:
    embeddings, labels = sample()
    draw = generator(5)
    untouched = draw.get_state()
    assert torch.equal(
        select("herding", labels, 4, generator=draw, embeddings=embeddings), herding_indices(embeddings, labels, 4)
    )
    assert torch.equal(
        select("k-center", labels, 4, generator=draw, embeddings=embeddings), k_center_indices(embeddings, labels, 4)
    )
    assert torch.equal(draw.get_state(), untouched)
    assert torch.equal(select("random", labels, 4, generator=draw), random_indices(labels, 4, generator(5)))
    events = torch.arange(60.0) // 10
    assert torch.equal(
        select("forgetting", labels, 4, generator=generator(5), events=events),
        forgetting_indices(events, labels, 4, generator(5)),
    )


def test_half_precision_embeddings_are_compared_in_float64() -> None:
    embeddings, labels = sample()
    halves = embeddings.bfloat16()
    assert torch.equal(herding_indices(halves, labels, 5), herding_indices(halves.double(), labels, 5))


def test_unknown_methods() -> None:
    with pytest.raises(ConfigError, match=r"'herdin'; did you mean 'herding'\? known: random, herding, k-center"):
        select("herdin", torch.zeros(3, dtype=torch.int64), 1, generator=generator())
    with pytest.raises(ConfigError, match=r"'zzz'; known"):
        select("zzz", torch.zeros(3, dtype=torch.int64), 1, generator=generator())


@pytest.mark.parametrize("method", METHODS)
def test_a_class_with_too_few_images(method: str) -> None:
    labels = torch.tensor([0, 0, 0, 2, 2])
    embeddings, events = torch.zeros(5, 2), torch.zeros(5)
    given = {"generator": generator(), "embeddings": embeddings, "events": events}
    with pytest.raises(SourceError, match=r"class 2 has 2 image\(s\), fewer than the 3 .* lower --ipc to 2 or add"):
        select(method, labels, 3, **given)
    with pytest.raises(SourceError, match="class 'dog' has 2"):
        select(method, labels, 3, **given, class_names=("cat", "cow", "dog"))
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        select(method, labels, 0, **given)
    with pytest.raises(SourceError, match="no images"):
        select(method, labels[:0], 1, generator=generator(), embeddings=embeddings[:0], events=events[:0])


@pytest.mark.parametrize("method", ["herding", "k-center"])
def test_embeddings_that_do_not_fit(method: str) -> None:
    labels = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ConfigError, match="needs embeddings"):
        select(method, labels, 1, generator=generator())
    for bad in (torch.zeros(3, 2), torch.zeros(4), torch.zeros(4, 2, dtype=torch.int64)):
        with pytest.raises(ConfigError, match=r"float \(4, D\)"):
            select(method, labels, 1, generator=generator(), embeddings=bad)
    with pytest.raises(ConfigError, match="NaN or infinite"):
        select(method, labels, 1, generator=generator(), embeddings=torch.tensor([[1.0], [2.0], [math.nan], [0.0]]))


def test_events_that_do_not_fit() -> None:
    labels = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ConfigError, match="needs forgetting events; count them"):
        select("forgetting", labels, 1, generator=generator(), embeddings=torch.zeros(4, 2))
    for bad in (torch.zeros(3), torch.zeros(4, 1), torch.tensor([0.0, 1.0, math.nan, 0.0])):
        with pytest.raises(ConfigError, match=r"one number per label, \(4,\)"):
            select("forgetting", labels, 1, generator=generator(), events=bad)

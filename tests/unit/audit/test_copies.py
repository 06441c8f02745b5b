"""Copies are found, and noise is none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from audits import selected, source

from atom_plugin.audit.copies import distance_scores, embedding_copies, nearest, pixel_copies
from atom_plugin.audit.members import begun_from
from atom_plugin.models.convnet import ConvNetConfig


def others():
    return source().validation.images


def embedder():
    network = ConvNetConfig(depth=1, width=8, normalisation="instance")
    return network.build((3, 8, 8), 3, generator=torch.Generator().manual_seed(0)).eval()


def moved(by: float):
    """A selection whose pixels were moved by noise of that size, on the [0, 1] scale."""
    held = selected("herding")
    noise = torch.randn(held.images.shape, generator=torch.Generator().manual_seed(5))
    return replace(held, images=held.images + by * noise / held.preprocessing.std.view(-1, 1, 1))


def test_nearest_is_the_one_that_a_loop_finds_in_whatever_parts() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, rows = torch.rand(7, 12, generator=generator), torch.rand(20, 12, generator=generator)
    found = nearest(queries, iter(rows.split(6)))
    for query, distance, row in zip(queries, found.distances, found.rows, strict=True):
        literal = [float((query - each).double().pow(2).mean().sqrt()) for each in rows]
        assert int(row) == literal.index(min(literal))
        assert float(distance) == pytest.approx(min(literal))


def test_a_small_distance_between_large_values_is_not_lost() -> None:
    row = 100 + torch.rand(1, 50, generator=torch.Generator().manual_seed(0))
    found = nearest(row + 1e-3, [torch.zeros(3, 50), row])
    assert float(found.distances) == pytest.approx(1e-3, rel=0.05) and int(found.rows) == 3


@pytest.mark.parametrize("by", [0.0, 0.02])
def test_a_set_of_members_hardly_moved_is_all_copies(by: float) -> None:
    held = moved(by)
    for found in (
        *pixel_copies([held], source().train, others()),
        *embedding_copies([held], source().train, others(), embedder(), held.preprocessing),
    ):
        assert found.count == len(held)
        assert found.ratio < 0.5
        assert found.synthetic.rows.tolist() == begun_from(selected("herding"), source()).tolist()


def test_noise_is_no_copy() -> None:
    held = selected()
    noise = replace(held, images=torch.randn(held.images.shape, generator=torch.Generator().manual_seed(1)))
    (found,) = pixel_copies([noise], source().train, others())
    assert found.count == 0 and found.ratio > 1


def test_one_real_image_in_a_hundred_that_is_no_member_counts_as_a_copy() -> None:
    (found,) = pixel_copies([selected()], source().train, others())
    assert float((found.real.distances <= found.threshold).float().mean()) == pytest.approx(0.01, abs=0.015)


def test_several_sets_are_looked_at_as_each_alone() -> None:
    sets = [selected(), selected("herding", ipc=2)]
    for each, found in zip(sets, pixel_copies(sets, source().train, others()), strict=True):
        (alone,) = pixel_copies([each], source().train, others())
        assert torch.equal(found.synthetic.rows, alone.synthetic.rows)
        assert torch.equal(found.real.distances, alone.real.distances)


def test_distance_scores_are_zero_for_what_the_set_holds_and_below_for_everything_else() -> None:
    scores = distance_scores(source().train, selected("herding"))
    own = begun_from(selected("herding"), source())
    assert abs(scores[own]).max() < 1e-6
    rest = torch.ones(len(scores), dtype=torch.bool)
    rest[own] = False
    assert scores[rest.numpy()].max() < -1e-3

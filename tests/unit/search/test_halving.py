"""Successive halving."""

from __future__ import annotations

import pytest
from searches import SET, LookedUp, search_over, widths

from atom_plugin.search.halving import epochs_spent, rung_epochs, survivors
from atom_plugin.search.scores import Score


@pytest.mark.parametrize(
    ("epochs", "rungs"), [(200, [22, 67, 200]), (9, [1, 3, 9]), (4, [1, 4]), (2, [1, 2]), (1, [1])]
)
def test_each_rung_has_three_times_the_epochs_of_the_one_before(epochs, rungs):
    assert rung_epochs(epochs) == rungs


def test_a_third_goes_on_and_none_that_failed():
    space = widths(1, 2, 3, 4)
    scores = {f"width={w}": Score(accuracies=(0.1 * w,)) for w in (1, 2, 3)} | {"width=4": Score(error="no")}
    assert [each.name for each in survivors(list(space), scores)] == ["width=2", "width=3"]
    failed = {each.name: Score(error="no") for each in space}
    assert survivors(list(space), failed) == []


def test_the_epochs_of_a_halving():
    # 27 candidates for 1 epoch, 9 for 3, 3 for 9.
    assert epochs_spent(27, [1, 3, 9]) == (81, 243)
    assert epochs_spent(4, [1, 3, 9]) == (4 + 2 * 3 + 9, 36)


def test_a_halved_search_trains_fewer_for_longer_and_orders_by_how_far_they_came():
    def reached(each):
        width = each.candidate.fields["width"]
        if each.workload.name != SET:
            return width / 10
        # The widest look worst at the end.
        return 1 - width / 10 if each.workload.training.epochs == 9 else width / 10

    train = LookedUp(reached)
    result = search_over(widths(1, 2, 3, 4, 5, 6, 7), halves=True).run(train, tops=[1])
    assert train.trained(SET) == [
        *((f"width={w}", 1) for w in (1, 2, 3, 4, 5, 6, 7)),
        *((f"width={w}", 3) for w in (5, 6, 7)),
        ("width=7", 9),
    ]
    assert [name for name, _ in train.trained("reference")] == [f"width={w}" for w in (1, 2, 3, 4, 5, 6, 7)]
    (found,) = result.summaries
    assert (found.best, found.seconds, result.savings) == ("width=7", 7 * 1 + 3 * 3 + 9, (25, 63))
    assert found.all.spearman.value == pytest.approx(1), "who went on stands before who did not"
    assert [result.scores[SET][f"width={w}"].epochs for w in (4, 5, 6, 7)] == [1, 3, 3, 9]


def test_every_proxy_halves_by_itself():
    def reached(each):
        width = each.candidate.fields["width"]
        return width / 10 if each.workload.name == SET else 1 - width / 10

    train = LookedUp(reached)
    search_over(widths(1, 2, 3), names=["random"], halves=True, kind="best").run(train)
    assert train.trained(SET)[3:] == [("width=3", 3), ("width=3", 9)]
    assert train.trained("random IPC 2")[3:] == [("width=1", 3), ("width=1", 9)]
    assert [name for name, _ in train.trained("everything")] == ["width=3", "width=1"]

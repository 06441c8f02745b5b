"""A search from its candidates to its result, its networks looked up."""

from __future__ import annotations

import pytest
from searches import SET, LookedUp, search_over, widths

from atom_plugin.search.scores import Score, plan_search, ranked, scores_of

ON_SET = {"width=1": 0.5, "width=2": 0.9, "width=3": 0.7}
ON_ALL = {"width=1": 0.6, "width=2": 0.8, "width=3": 0.9}


def tabled(each):
    table = ON_SET if each.workload.name == SET else ON_ALL
    return table[each.candidate.name]


def test_networks_come_candidate_by_candidate_each_on_every_workload():
    search = search_over(widths(1, 2), names=["random"], repeats=2)
    found = [(each.candidate.name, each.workload.name, each.job.repeat, each.job.seed) for each in search.planned()]
    assert found[:6] == [
        ("width=1", "a.h5", 0, 0),
        ("width=1", "a.h5", 1, 0),
        ("width=1", "random IPC 2", 0, 0),
        ("width=1", "random IPC 2", 1, 0),
        ("width=1", "reference", 0, 1),
        ("width=2", "a.h5", 0, 0),
    ]
    assert len({each.job.key for each in search.planned()}) == 10


def test_the_best_of_each_proxy_is_trained_on_everything_and_no_other():
    train = LookedUp(tabled)
    result = search_over(widths(1, 2, 3)).run(train, tops=[1, 2])
    (found,) = result.summaries
    assert (found.best, found.best_reference, found.best_test) == ("width=2", 0.8, 0.8)
    assert train.trained("everything") == [("width=2", 5)]
    assert found.all.spearman.value == pytest.approx(0.5)  # places 1, 3, 2 and 1, 2, 3
    assert found.regrets == {1: pytest.approx(0.1), 2: 0.0}
    assert (found.seconds, found.failed, found.epochs, found.stored) == (27.0, 0, 9, 6)
    assert [each.name for each in result.order()] == ["width=3", "width=2", "width=1"]


def test_without_a_reference_of_all_candidates_only_the_best_is_trained_on_more():
    train = LookedUp(tabled)
    result = search_over(widths(1, 2, 3), kind="best").run(train)
    (found,) = result.summaries
    assert train.trained("reference") == []
    assert train.trained("everything") == [("width=2", 5)]
    assert (found.best_test, found.best_reference, found.all, found.regrets) == (0.8, None, None, {})
    assert [each.name for each in result.order()] == ["width=2", "width=3", "width=1"]
    nothing = LookedUp(tabled)
    search_over(widths(1, 2, 3), kind="none", reference=None).run(nothing)
    assert {each.workload.name for each in nothing.jobs} == {SET}


def test_who_fails_is_a_row_with_the_reason_and_is_never_the_best():
    def reached(each):
        return "the loss blew up" if each.candidate.name == "width=2" and each.workload.name == SET else tabled(each)

    search = search_over(widths(1, 2, 3, 7), unfit={"width=7": "too wide"})
    train = LookedUp(reached)
    result = search.run(train)
    (found,) = result.summaries
    assert "width=7" not in {each.candidate.name for each in train.jobs}
    assert (found.best, found.failed, found.all.n) == ("width=3", 1, 3)
    rows = {row["candidate"]: row for row in result.to_json()["candidates"]}
    assert rows["width=7"]["unfit"] == "too wide"
    assert rows["width=2"]["scores"][SET]["error"] == "the loss blew up"
    assert rows["width=2"]["scores"][SET]["accuracy"] is None
    assert rows["width=2"]["scores"]["reference"]["accuracy"] == 0.8


def test_a_search_of_which_all_fails_has_no_best():
    result = search_over(widths(1, 2)).run(LookedUp(lambda each: "no"))
    (found,) = result.summaries
    assert (found.best, found.best_test, found.failed, found.all) == (None, None, 2, None)


def test_a_score_is_the_mean_over_networks_and_none_where_one_failed():
    search = search_over(widths(1), repeats=2)
    planned = plan_search(search.space, search.proxies)
    reached = {0: 0.25, 1: 0.75}
    assert scores_of(planned, LookedUp(lambda each: reached[each.job.repeat])(planned))[SET]["width=1"] == Score(
        accuracies=(0.25, 0.75), seconds=18.0, epochs=9
    )
    assert Score(accuracies=(0.25, 0.75)).accuracy == 0.5
    assert Score(accuracies=(0.25,), error="no").accuracy is None


def test_equal_candidates_stay_in_their_order():
    space = widths(1, 2, 3)
    scores = {"width=1": Score(accuracies=(0.5,)), "width=2": Score(error="no"), "width=3": Score(accuracies=(0.5,))}
    assert [each.name for each in ranked(space, scores)] == ["width=1", "width=3", "width=2"]

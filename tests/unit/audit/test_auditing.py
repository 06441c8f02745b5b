"""An audit as a whole, on a few images."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import torch
from audits import distilled, quick, selected, source
from small import coloured_source, small_selection
from synthetic_sets import make_set

from atom_plugin.audit.auditing import audit, networks_to_train, with_baselines
from atom_plugin.audit.result import ALL, OWN, START, AuditConfig
from atom_plugin.audit.tables import as_csv, audit_table, scores_csv, to_json
from atom_plugin.datasets.validation import hold_out
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.errors import ConfigError, SourceError


def test_networks_on_real_images_give_these_away() -> None:
    found = audit([("herding", selected("herding"))], source(), quick(epochs=60, networks=3))
    (each,) = found.sets
    assert set(each.rates) == {(group, attack) for group in (ALL, OWN) for attack in ("loss", "lira", "distance")}
    assert each.rates[OWN, "distance"].auc.value == 1
    for attack in ("loss", "lira"):
        assert each.rates[OWN, attack].auc.low > 0.6
    assert set(found.control) == {"loss", "distance"}
    assert all(rates.auc.value == pytest.approx(0.5, abs=0.15) for rates in found.control.values())
    assert each.pixels.count == len(each.synthetic_set)


def test_a_run_from_noise_has_no_start_and_no_copies() -> None:
    noise, begun = audit([("noise", distilled("noise")), ("random", distilled("random"))], source(), quick()).sets
    assert {group for group, _ in noise.rates} == {ALL} and noise.own is None and noise.pixels.count == 0
    assert {group for group, _ in begun.rates} == {ALL, START}
    # Six small steps: hardly moved.
    assert begun.rates[START, "distance"].auc.value == 1 and begun.pixels.count == len(begun.synthetic_set)


def test_images_that_a_set_began_from_are_asked_about_whether_drawn_or_not() -> None:
    found = audit([("begun", selected())], source(), quick(images=12))
    (each,) = found.sets
    assert each.own is not None
    assert int(each.own.sum()) == each.rates[OWN, "loss"].members == 12
    assert int((found.is_member & found.drawn).sum()) == int((~found.is_member).sum()) == 12
    assert not (each.own & ~found.is_member).any()
    rows = found.rows[torch.from_numpy(found.is_member)]
    assert len(rows.unique()) == len(rows)


def test_images_of_its_own_that_are_too_few_to_tell_of_are_no_group() -> None:
    (each,) = audit([("a", selected(ipc=1))], source(), quick()).sets
    assert {group for group, _ in each.rates} == {ALL}
    assert each.own is not None and each.own.sum() == 3


def test_same_seed_same_figures() -> None:
    def scores(seed: int):
        found = audit([("a", distilled())], source(), quick(seed=seed)).sets[0]
        return found.scores, found.rates

    (once, rates), (again, same), (other, _) = scores(1), scores(1), scores(2)
    assert all(np.array_equal(once[attack], again[attack]) for attack in once)
    assert rates == same
    assert not np.array_equal(once["loss"], other["loss"])


def test_a_baseline_stands_beside_each_kind_of_set_once() -> None:
    sets = [("a", distilled()), ("b", distilled("noise")), ("packed", selected("random", factor=2))]
    named = with_baselines(sets, source(), quick())
    assert [name for name, _ in named] == ["a", "b", "packed", "random IPC 4"]
    assert torch.equal(named[-1][1].images, selected("random").images)
    assert named[2][1].factor == 2  # which is its own baseline
    assert with_baselines(sets, source(), quick(baseline=False)) == sets


def test_as_many_networks_are_trained_as_are_told() -> None:
    epochs: list[int] = []
    config = quick(epochs=1)
    sets = [("a", distilled()), ("b", selected()), ("packed", selected("random", factor=2, ipc=2))]
    audit(sets, source(), config, on_epoch=epochs.append)
    assert len(epochs) == networks_to_train(sets, [], config) == 3 * 2 + 2 * 2  # shadow networks for each packing


def shadow_of(seed: int):
    """A set of the images that another seed of the validation part leaves, and these."""
    other = source(seed)
    return f"shadow {seed}", selected_set(small_selection(ipc=4), other, device="cpu"), other


def test_given_shadow_sets_count_for_images_that_they_were_made_without() -> None:
    shadows = [shadow_of(seed) for seed in (1, 2, 3)]
    found = audit([("a", selected())], source(), quick(), shadows=shadows)
    (each,) = found.sets
    assert each.shadows == 3 and not found.control
    assert len(found.examined.others) == 72  # none are kept apart
    literal = [
        sum(
            image.numpy().tobytes() not in {seen.numpy().tobytes() for seen in other.train.images}
            for _, _, other in shadows
        )
        for image in found.images.images
    ]
    assert np.array_equal(np.isnan(each.scores["lira"]), np.array(literal) < 2)
    told = int((found.is_member & (np.array(literal) >= 2)).sum())
    assert each.rates[ALL, "loss"].members == each.rates[ALL, "lira"].members == told


def test_a_shadow_set_of_the_same_images_is_no_shadow() -> None:
    everything = coloured_source(classes=3, per_class=48)
    shadow = ("all.h5", selected_set(small_selection(), everything, device="cpu"), everything)
    with pytest.raises(ConfigError, match=r"all\.h5.*--split-seed"):
        audit([("a", selected())], source(), quick(), shadows=[shadow])


def test_images_that_too_few_shadow_sets_were_made_without_are_told() -> None:
    shadow = ("same.h5", selected("herding"), source())  # made of every member
    with pytest.raises(ConfigError, match=r"0 of its members.*--shadow"):
        audit([("a", selected())], source(), quick(), shadows=[shadow])


def test_too_few_images_for_shadow_sets_are_told() -> None:
    small = hold_out(coloured_source(classes=3, per_class=12), 6)
    held = selected_set(small_selection(ipc=4), small, device="cpu")
    with pytest.raises(SourceError, match=r"1 in the class.*4.*--shadow"):
        audit([("a", held)], small, quick())


@pytest.mark.parametrize(("choice", "value"), [("networks", 1), ("images", 0)])
def test_impossible_choices_are_refused(choice: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"{choice}.*not {value}"):
        AuditConfig(**{choice: value})


def test_sets_of_another_source_are_refused_before_any_training() -> None:
    other = make_set(shape=(3, 8, 8), source={"name": "coloured", "fingerprint": "ffff"})
    with pytest.raises(ConfigError, match=r"other\.h5.*ffff"):
        audit([("a", selected()), ("other.h5", other)], source(), quick())


def test_tables_and_json_tell_the_same() -> None:
    found = audit([("a\x1b.h5", distilled()), ("b.h5", selected("herding"))], source(), quick(images=12))
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    told = json.loads(json.dumps(to_json(found)))
    assert [each["set"] for each in told["sets"]] == ["a\x1b.h5", "b.h5"]
    flat = [
        (each["set"], one["group"], one["attack"], one["auc"]["value"])
        for each in told["sets"]
        for one in each["attacks"]
    ]
    assert flat == [(row["set"], row["group"], row["attack"], float(row["auc"])) for row in rows]
    assert told["sets"][0]["attacks"][0]["tpr_at_0.1_percent_fpr"] is None and rows[0]["tpr_at_0.1_percent_fpr"] == ""
    assert told["sets"][1]["copies"]["pixels"]["copies"] == 12
    table = audit_table(found)
    assert r"a\x1b.h5" in table and "12 of 12" in table and "control: no member seen" in table


def test_scores_say_where_each_image_is_and_what_it_is_to_the_set() -> None:
    found = audit([("a.h5", distilled()), ("n.h5", distilled("noise"))], source(), quick(images=12))
    rows = list(csv.DictReader(io.StringIO(scores_csv(found))))
    assert len(rows) == 2 * len(found.images)
    for row, place in zip(rows, [*range(len(found.images))] * 2, strict=True):
        split = source().train if row["split"] == "train" else source().validation
        assert torch.equal(split.images[int(row["row"])], found.images.images[place])
        assert row["member"] == str(int(row["split"] == "train"))
        assert row["class"] == source().class_names[int(split.labels[int(row["row"])])]
    assert {row["own"] for row in rows if row["set"] == "n.h5"} == {""}
    assert float(rows[0]["lira_score"]) == found.sets[0].scores["lira"][0]

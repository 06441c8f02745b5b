"""What candidates are trained on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from small import coloured_source, small_selection

from atom_plugin.datasets.validation import hold_out
from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.errors import ConfigError
from atom_plugin.evaluation.training_recipes import TrainConfig
from atom_plugin.search.workloads import ProxyPlan, everything, proxies, reference

DATA = coloured_source(classes=3, per_class=12)
HELD = hold_out(DATA, 0.25)  # 27 to train on, 9 to validate on


def small_set(ipc=2, **options):
    return selected_set(small_selection(ipc=ipc, method="herding", **options), DATA)


def plan(*names, epochs=2, **more):
    return ProxyPlan(names=names, training=TrainConfig(epochs=epochs), precision="float32", device="cpu", **more)


def test_every_size_of_set_gets_the_proxies_of_its_size():
    found = proxies([("a.h5", small_set()), ("b.h5", small_set(3))], HELD, plan("random", "k-center", repeats=2))
    assert [(each.name, len(each.subject), each.stored) for each in found] == [
        ("a.h5", 6, 6),
        ("b.h5", 9, 9),
        ("random IPC 2", 6, 6),
        ("k-center IPC 2", 6, 6),
        ("random IPC 3", 9, 9),
        ("k-center IPC 3", 9, 9),
    ]
    assert {each.repeats for each in found} == {2}
    assert {(each.subject.tested_on, each.subject.on) for each in found} == {(HELD.fingerprint, "validation")}
    assert all(each.subject.test is HELD.validation for each in found)
    first = found[0].subject.synthetic_set.preprocessing
    assert all(each.subject.synthetic_set.preprocessing.matches(first) for each in found[2:4])


@pytest.mark.parametrize(
    ("epochs", "images", "passes"),
    [(2, 12, 12), (4, 24, 24), (9, 27, 54), (14, 27, 81)],  # 6 images an epoch of the set; 27 real ones
)
def test_early_stopping_shows_as_many_images_as_the_set(epochs, images, passes):
    (_, early) = proxies([("a.h5", small_set())], HELD, plan("early-stopping", epochs=epochs))
    assert (early.name, len(early.subject), early.passes, early.stored) == ("early-stopping IPC 2", images, passes, 27)
    assert early.subject.full


def test_parts_of_the_training_images_are_told_apart():
    fingerprints = {
        early.subject.fingerprint
        for epochs in (1, 2, 4, 9)
        for seed in (0, 1)
        for early in proxies([("a.h5", small_set())], HELD, plan("early-stopping", epochs=epochs, seed=seed))[1:]
    }
    assert len(fingerprints) == 7, "three parts of two seeds each, and all images"


def test_the_reference_has_all_images_or_so_many_of_each_class_and_seeds_of_its_own():
    whole = reference(small_set(), HELD, epochs=5, seed=3)
    assert (len(whole.subject), whole.passes, whole.seed, whole.training) == (27, 135, 4, TrainConfig(epochs=5))
    part = reference(small_set(), HELD, epochs=5, ipc=4)
    assert part.subject.real.labels.bincount().tolist() == [4, 4, 4]
    assert part.stored == 12
    assert reference(small_set(), HELD, epochs=5, ipc=40).stored == 27
    assert whole.subject.fingerprint != part.subject.fingerprint


def test_everything_is_all_training_images_tested_on_the_test_images():
    last = everything(reference(small_set(), HELD, epochs=5, ipc=4), HELD)
    assert (len(last.subject), last.stored, last.training.epochs) == (36, 36, 5)
    assert last.subject.test is DATA.test
    assert (last.subject.on, last.seed) == ("test", 1)
    whole = reference(small_set(), HELD, epochs=5)
    assert last.subject.fingerprint != whole.subject.fingerprint
    with pytest.raises(ConfigError, match="coloured: no validation images are held out"):
        reference(small_set(), DATA, epochs=5)


def test_the_same_set_twice_and_an_unknown_proxy_are_refused():
    one = small_set()
    with pytest.raises(ConfigError, match=r"a\.h5 and b\.h5 have the same images"):
        proxies([("a.h5", one), ("b.h5", replace(one))], HELD, plan())
    with pytest.raises(ConfigError, match="no proxy is called 'herdng'; did you mean 'herding'"):
        plan("herdng")

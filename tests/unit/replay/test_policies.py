"""The names of what a replay memory holds: which are known, and what fills the memory under them."""

from __future__ import annotations

import pytest

from atom_plugin.errors import ConfigError
from atom_plugin.replay.policies import MemoryOptions, check_policy, supplier_of
from atom_plugin.replay.suppliers import DistillingSupplier, MixedSupplier, SelectingSupplier

OPTIONS = MemoryOptions(mode="replay", ipc=2, distillation={"precision": "float32", "factor": 2, "iterations": 5})


@pytest.mark.parametrize(
    "name",
    ["atom", "random", "k-center", "herding-packed", "atom+herding", "dm+random-packed", "atom+dm+random", "gdumb"],
)
def test_known_ones_are(name):
    check_policy(name, stored=False)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("herdin", "did you mean 'herding'"),
        ("atom-packed", "no policy is called 'atom-packed'"),
        ("atom+herdin", r"did you mean 'herding'.*of the policy 'atom\+herdin'"),
        ("atom+atom", "names a part twice"),
        ("atom+gdumb", "no policy is called 'gdumb'"),
        ("atom+", "no policy is called ''"),
        ("stored", "--memory"),
        ("stored+random", "--memory"),
    ],
)
def test_others_are_refused(name, words):
    with pytest.raises(ConfigError, match=words):
        check_policy(name, stored=False)


def test_stored_ones_are_known_beside_sets():
    check_policy("stored", stored=True)
    check_policy("stored+random", stored=True)


def test_real_images_are_packed_where_the_name_says_so():
    plain, packed = (supplier_of(name, OPTIONS, 1, [], None) for name in ("random", "random-packed"))
    assert isinstance(plain, SelectingSupplier)
    assert (plain.method, plain.seed, dict(plain.overrides)) == ("random", 1, {"precision": "float32", "factor": 1})
    assert isinstance(packed, SelectingSupplier)
    assert (packed.method, packed.overrides["factor"]) == ("random", 2)


def test_parts_of_a_mixture_are_what_they_are_alone():
    mixed = supplier_of("dm+herding-packed", OPTIONS, 0, [], None)
    assert isinstance(mixed, MixedSupplier)
    distilled, real = mixed.suppliers
    assert isinstance(distilled, DistillingSupplier)
    assert distilled.overrides["matcher"] == "dm"
    assert real == supplier_of("herding-packed", OPTIONS, 0, [], None)

"""What fills a replay memory: sets made before, distillation, selection; with any class order and too few images."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from small import coloured_source
from synthetic_sets import assert_equal_sets, make_set

from atom_plugin.datasets import SourceData, Split
from atom_plugin.errors import AtomError, ConfigError, SourceError
from atom_plugin.replay.suppliers import (
    DistillingSupplier,
    MixedSupplier,
    PrecomputedSupplier,
    SelectingSupplier,
    only_classes,
)
from atom_plugin.transforms.preprocessing import Preprocessing

FLOAT32 = {"precision": "float32"}
SMALL = {**FLOAT32, "network": {"width": 8, "depth": 2}}
QUICK = {**SMALL, "iterations": 2, "real_batch": 4}
PLAIN = Preprocessing(mean=torch.zeros(3), std=torch.ones(3), image_shape=(3, 8, 8))


@pytest.fixture(scope="module")
def data() -> SourceData:
    return coloured_source(classes=5, per_class=8)


def per_class(split: Split, label: int) -> torch.Tensor:
    return split.images[split.labels == label]


def test_only_keeps_ids_in_ascending_order_whatever_the_order_asked_for(data):
    some = only_classes(data, [4, 1, 4])
    assert some.class_names == ("class 1", "class 4")
    assert torch.equal(per_class(some.train, 0), per_class(data.train, 1))
    assert torch.equal(per_class(some.train, 1), per_class(data.train, 4))
    assert torch.equal(per_class(some.test, 1), per_class(data.test, 4))


def test_only_refuses_classes_without_images_and_sources_that_are_not_there(data):
    absent = replace(data, class_names=(*data.class_names, "unseen"))
    with pytest.raises(SourceError, match=r"coloured: has no training images of the classes \[5\]"):
        only_classes(absent, [1, 5])
    with pytest.raises(ConfigError, match="needs the real images; give their source"):
        only_classes(None, [1])


def test_only_does_without_test_images(data):
    keep = data.test.labels < 3
    some = only_classes(replace(data, test=Split(images=data.test.images[keep], labels=data.test.labels[keep])), [3])
    assert torch.equal(some.test.images, some.train.images)


def test_precomputed_gives_the_first_images_with_their_ids():
    held = make_set(classes=5, ipc=3)
    given = PrecomputedSupplier([held])
    assert (given.needs_images, given.preprocessing) == (False, held.preprocessing)
    some = given.supply(None, [4, 1], ipc=2, preprocessing=None)
    assert some.labels.tolist() == [1, 1, 4, 4]
    assert torch.equal(some.images, held.images[[3, 4, 12, 13]])
    assert some.class_names == held.class_names
    few = given.supply(None, [0], ipc=9, preprocessing=held.preprocessing)
    assert len(few) == 3


def test_precomputed_takes_sets_in_any_order_of_their_images():
    labels = torch.tensor([2, 0, 2, 0, 2])
    held = make_set(classes=3, labels=labels)
    some = PrecomputedSupplier([held]).supply(None, [0, 2], ipc=2, preprocessing=None)
    assert some.labels.tolist() == [0, 0, 2, 2]
    assert torch.equal(some.images, held.images[[1, 3, 0, 2]])


def test_precomputed_finds_the_set_of_the_experience():
    names = tuple("abcdef")
    first, second, third = (
        make_set(labels=torch.tensor(labels), class_names=names, pixels=0) for labels in ([5, 0], [1, 4], [2, 3])
    )
    given = PrecomputedSupplier([first, second, third])
    assert_equal_sets(given.supply(None, [3, 2], ipc=5, preprocessing=None), third)
    assert given.supply(None, [1], ipc=5, preprocessing=None).labels.tolist() == [1]
    with pytest.raises(ConfigError, match=r"no set has the classes \[0, 1\] that arrive together .*\[0, 5\], \[1, 4\]"):
        given.supply(None, [1, 0], ipc=5, preprocessing=None)


def test_precomputed_sets_must_fit_each_other():
    first = make_set()
    renamed = replace(first, class_names=("a", "b", "c"))
    with pytest.raises(ConfigError, match=r"set 1 and set 3 .* class names .*class 0.* against a, b, c"):
        PrecomputedSupplier([first, first, renamed])
    other = replace(first, preprocessing=replace(first.preprocessing, mean=first.preprocessing.mean / 2))
    with pytest.raises(
        ConfigError, match=r"set 1 and set 2 .* preprocessing \(standardised \(mean 0\.496.* against .*0\.248"
    ):
        PrecomputedSupplier([first, other])
    with pytest.raises(ConfigError, match="found no set"):
        PrecomputedSupplier([])
    for words, wanted in (
        ("0.248", other.preprocessing),
        ("1x8x8", replace(first.preprocessing, image_shape=(1, 8, 8))),
    ):
        with pytest.raises(ConfigError, match=words):
            PrecomputedSupplier([first]).supply(None, [0], ipc=1, preprocessing=wanted)


@pytest.mark.parametrize("classes", [[3], [4, 0], [2, 3, 1]])
@pytest.mark.parametrize(
    "supplier",
    [
        DistillingSupplier(overrides=QUICK),
        *(SelectingSupplier(method=method, overrides=FLOAT32) for method in ("random", "herding", "k-center")),
    ],
)
def test_labels_and_names_are_the_sources_for_any_class_order(data, supplier, classes):
    made = supplier.supply(data, classes, ipc=2, preprocessing=PLAIN)
    assert made.labels.tolist() == [label for label in sorted(classes) for _ in range(2)]
    assert made.class_names == data.class_names
    assert made.preprocessing is PLAIN
    again = supplier.supply(data, list(reversed(classes)), ipc=2, preprocessing=PLAIN)
    assert_equal_sets(again, made)


def test_selected_images_are_real_ones_of_their_class(data):
    made = SelectingSupplier(overrides=FLOAT32).supply(data, [4, 1], ipc=3, preprocessing=PLAIN)
    assert made.storage == "uint8"
    for image, label in zip(made.images, made.labels.tolist(), strict=True):
        assert any(torch.equal(image, real) for real in per_class(data.train, label))


def test_distilled_images_are_not_the_real_ones_but_start_from_them(data):
    made = DistillingSupplier(overrides={**QUICK, "seed": 3, "image_lr": 0.1}).supply(
        data, [4, 1], ipc=3, preprocessing=PLAIN
    )
    start = SelectingSupplier(seed=3, overrides=SMALL).supply(data, [4, 1], ipc=3, preprocessing=PLAIN)
    moved = made.decoded().images - start.decoded().images
    assert 0 < float(moved.abs().mean()) < 1
    assert (made.provenance.method, made.provenance.iterations) == ("atom", 2)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_fills_a_memory_computes_where_and_how_it_is_told(data, precision):
    selecting = functools.partial(SelectingSupplier, method="herding")
    for supplier, options in ((DistillingSupplier, QUICK), (selecting, SMALL)):
        overrides = {**options, "precision": precision}
        made = supplier(overrides=overrides, device="cpu").supply(data, [4, 1], ipc=1, preprocessing=PLAIN)
        assert made.provenance.config["precision"] == precision
        with pytest.raises(ConfigError, match="tpu"):
            supplier(overrides=overrides, device="tpu").supply(data, [4, 1], ipc=1, preprocessing=PLAIN)


def test_global_random_states_do_not_matter(data):
    supplier = DistillingSupplier(overrides=QUICK)
    torch.manual_seed(1)
    first = supplier.supply(data, [0, 1], ipc=1, preprocessing=None)
    torch.manual_seed(2)
    assert_equal_sets(supplier.supply(data, [0, 1], ipc=1, preprocessing=None), first)


def test_the_seed_does(data):
    first, second = (
        SelectingSupplier(seed=seed, overrides=FLOAT32).supply(data, [0, 1], ipc=2, preprocessing=PLAIN)
        for seed in (0, 1)
    )
    assert not torch.equal(first.images, second.images)


def test_without_a_preprocessing_it_is_fitted_on_the_classes_that_came(data):
    made = SelectingSupplier(overrides={**FLOAT32, "zca_eps": None}).supply(data, [4, 1], ipc=1, preprocessing=None)
    assert made.preprocessing.matches(Preprocessing.fit(only_classes(data, [1, 4]).train.images))
    assert not made.preprocessing.matches(Preprocessing.fit(data.train.images))
    own = SelectingSupplier(overrides=FLOAT32, preprocessing=PLAIN).supply(data, [4, 1], ipc=1, preprocessing=None)
    assert own.preprocessing is PLAIN


def unbalanced(data: SourceData, counts: dict[int, int]) -> SourceData:
    keep = torch.cat([(data.train.labels == label).nonzero().flatten()[:count] for label, count in counts.items()])
    return replace(data, train=Split(images=data.train.images[keep], labels=data.train.labels[keep]))


@pytest.mark.parametrize("method", ["random", "herding", "k-center"])
def test_a_class_with_too_few_images_gives_all_and_the_others_what_was_asked(data, method):
    few = unbalanced(data, {0: 8, 1: 2, 2: 3, 3: 8})
    made = SelectingSupplier(method=method, overrides=SMALL).supply(few, [3, 2, 1], ipc=4, preprocessing=PLAIN)
    assert made.labels.tolist() == [1, 1, 2, 2, 2, 3, 3, 3, 3]
    assert made.class_names == data.class_names
    assert sorted(made.images[:2].sum((1, 2, 3)).tolist()) == sorted(per_class(few.train, 1).sum((1, 2, 3)).tolist())


def test_distillation_of_too_few_images_is_refused_in_one_line(data):
    few = unbalanced(data, {1: 2, 2: 3})
    with pytest.raises(SourceError, match=r"class 1.* has 2 image.*fewer than the 4") as caught:
        DistillingSupplier(overrides=QUICK).supply(few, [2, 1], ipc=4, preprocessing=PLAIN)
    assert "\n" not in str(caught.value)


def test_overrides_do_not_stand_against_what_the_memory_asks_for(data):
    made = DistillingSupplier(overrides={**QUICK, "ipc": 50}).supply(data, [0], ipc=1, preprocessing=PLAIN)
    assert len(made) == 1
    made = SelectingSupplier(overrides={**FLOAT32, "ipc": 50, "seed": 9, "method": "herding"}).supply(
        data, [0], ipc=1, preprocessing=PLAIN
    )
    assert (len(made), made.provenance.seed, made.provenance.method) == (1, 0, "random")


def test_budgets_of_bytes_are_told_how_images_will_be_stored(data):
    shape = data.image_shape
    stored = PrecomputedSupplier([SelectingSupplier(overrides=FLOAT32).supply(data, [0], ipc=1, preprocessing=PLAIN)])
    assert [each.storage(shape) for each in (SelectingSupplier(), DistillingSupplier(), stored)] == ["uint8"] * 3
    halves = {"storage": "float16"}
    mixed = MixedSupplier([SelectingSupplier(overrides=halves), SelectingSupplier()])
    for supplier in (SelectingSupplier(overrides=halves), DistillingSupplier(overrides=halves), mixed):
        assert supplier.storage(shape) == "float16"


def test_packed_images_hold_several_real_ones_and_are_counted_as_one():
    data = coloured_source(per_class=10)
    packed = SelectingSupplier(overrides={**FLOAT32, "factor": 2}).supply(data, [1], ipc=2, preprocessing=PLAIN)
    assert (len(packed), packed.decoded_count, packed.factor) == (2, 8, 2)
    few = SelectingSupplier(overrides={**FLOAT32, "factor": 2}).supply(data, [1], ipc=3, preprocessing=PLAIN)
    assert len(few) == 2  # ten real images fill two


def test_whitened_streams_get_images_that_are_not_packed_unless_asked():
    data = coloured_source(classes=2, per_class=8, size=32)
    whitened = Preprocessing.fit(data.train, zca_eps=0.1)
    quick = {**QUICK, "iterations": 1}
    made = DistillingSupplier(overrides=quick).supply(data, [0, 1], ipc=2, preprocessing=whitened)
    assert made.factor == 1
    with pytest.raises(ConfigError, match="ZCA"):
        DistillingSupplier(overrides={**quick, "factor": 2}).supply(data, [0, 1], ipc=2, preprocessing=whitened)
    plain = DistillingSupplier(overrides=quick).supply(data, [0, 1], ipc=2, preprocessing=None)
    assert (plain.factor, plain.storage) == (2, "uint8")


@pytest.mark.parametrize("ipc", [1, 2, 3, 4])
def test_a_mixed_memory_has_equal_parts_in_turns(data, ipc):
    parts = [SelectingSupplier(seed=seed, overrides=FLOAT32) for seed in (0, 1)]
    made = MixedSupplier(parts).supply(data, [4, 1], ipc=ipc, preprocessing=PLAIN)
    assert made.labels.tolist() == [1] * ipc + [4] * ipc
    shares = [-(-ipc // 2), ipc // 2]
    for label in (1, 4):
        own = made.images[made.labels == label]
        for part, share, first in zip(parts, shares, (0, 1), strict=True):
            if share:
                expected = part.supply(data, [4, 1], ipc=share, preprocessing=PLAIN)
                assert torch.equal(own[first::2], expected.images[expected.labels == label])


def test_parts_that_are_stored_in_different_ways_are_refused(data):
    parts = [SelectingSupplier(overrides=FLOAT32), SelectingSupplier(overrides={**FLOAT32, "storage": "float32"})]
    with pytest.raises(ConfigError, match="different ways"):
        MixedSupplier(parts).supply(data, [0], ipc=2, preprocessing=PLAIN)
    with pytest.raises(ConfigError, match="1 supplier"):
        MixedSupplier(parts[:1])
    assert MixedSupplier(parts).needs_images


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SelectingSupplier(method="best"), "no selection method is called 'best'; known: random"),
        (
            lambda: DistillingSupplier(recipe="atmo").supply(coloured_source(), [0], ipc=1, preprocessing=None),
            "did you mean 'atom'",
        ),
        (
            lambda: DistillingSupplier(overrides={"matcher": "atmo"}).supply(
                coloured_source(), [0], ipc=1, preprocessing=None
            ),
            "did you mean 'atom'",
        ),
    ],
)
def test_unknown_names_are_refused(make, words):
    with pytest.raises(AtomError, match=words):
        make()


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("a.h5", "sets must be a list or tuple, not str"),
        (["a.h5"], r"sets\[0\] must be a SyntheticSet, not str"),
        (3, "not int"),
    ],
)
def test_sets_that_are_none_are_refused_when_they_are_given(given, found):
    with pytest.raises(ConfigError, match=found):
        PrecomputedSupplier(given)


@pytest.mark.parametrize("given", ["atom", None, DistillingSupplier])
def test_a_mixture_of_what_is_no_supplier_is_refused(given):
    with pytest.raises(ConfigError, match=r"suppliers\[1\] must be an object such as DistillingSupplier"):
        MixedSupplier([SelectingSupplier(), given])

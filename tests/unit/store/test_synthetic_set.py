from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch
from synthetic_sets import assert_equal_sets, make_set
from torch.utils.data import DataLoader

from atom_plugin.errors import ConfigError
from atom_plugin.store.concatenation import concatenate
from atom_plugin.store.provenance import Provenance
from atom_plugin.transforms.preprocessing import Preprocessing
from atom_plugin.transforms.whitening import Whitening


def test_says_what_it_holds():
    held = make_set(classes=4, labels=torch.tensor([2, 2, 0]))
    assert (len(held), held.classes, held.ipc) == (3, [0, 2], 1)
    empty = make_set(labels=torch.zeros(0, dtype=torch.int64))
    assert (len(empty), empty.classes, empty.ipc) == (0, [], 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": torch.zeros(6, 1, 4, 4, dtype=torch.float64)}, "images must be float32"),
        ({"images": torch.zeros(6, 16)}, "images must be float32"),
        ({"images": torch.zeros(6, 1, 4, 5)}, "do not fit a preprocessing fitted on"),
        ({"labels": torch.zeros(6, dtype=torch.int32)}, "labels must be int64"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, "labels must be int64"),
        ({"labels": torch.tensor([0, 0, 0, 0, 0, 3])}, "labels run from 0 to 3, but there are 3 class names"),
        ({"labels": torch.tensor([-1, 0, 0, 0, 0, 2])}, "labels run from -1 to 2"),
    ],
)
def test_refuses_what_does_not_fit(change, words):
    with pytest.raises(ConfigError, match=words):
        replace(make_set(), **change)


def test_subset_keeps_ids_and_names():
    held = make_set(classes=4)
    part = held.subset([3, 1])
    assert part.labels.tolist() == [3, 3, 1, 1]
    assert torch.equal(part.images, held.images[[6, 7, 2, 3]])
    with pytest.raises(ConfigError, match="must differ, not 3, 1, 1"):
        held.subset([3, 1, 1])
    assert part.class_names == held.class_names
    with pytest.raises(ConfigError, match=r"no images of class \[2\]; it has \[1, 3\]"):
        part.subset([2, 3])


def test_as_dataset_yields_images_and_python_ints():
    held = make_set()
    dataset = held.as_dataset()
    image, label = dataset[-1]
    assert torch.equal(image, held.images[-1])
    assert (type(label), label, len(dataset)) == (int, 2, 6)
    images, labels = next(iter(DataLoader(dataset, batch_size=4)))
    assert torch.equal(images, held.images[:4])
    assert labels.tolist() == [0, 0, 1, 1]
    assert len(list(pickle.loads(pickle.dumps(dataset)))) == 6


def test_concatenate_is_class_major_and_stable():
    first = make_set(pixels=1)
    second = replace(first, images=first.images + 100)
    merged = concatenate([first, second])
    assert merged.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    for label in range(3):
        expected = torch.cat([first.images[2 * label : 2 * label + 2], second.images[2 * label : 2 * label + 2]])
        assert torch.equal(merged.images[merged.labels == label], expected)


def test_concatenate_undoes_subset():
    held = make_set(classes=3, zca=True)
    merged = concatenate([held.subset([2, 0]), held.subset([1])])
    assert_equal_sets(replace(merged, provenance=held.provenance), held)


def test_classes_of_a_nested_set_merge_back_nested_and_parts_of_a_class_do_not():
    held = replace(make_set(classes=3, ipc=5), prefixes=(1, 2, 5))
    again = concatenate([held.subset([2]), held.subset([1]), held.subset([0])])
    assert_equal_sets(replace(again, provenance=held.provenance), held)
    assert again.prefixes == (1, 2, 5)
    assert concatenate([held.subset([0]), replace(held.subset([1, 2]), prefixes=(2, 5))]).prefixes == (2, 5)
    assert concatenate([held.first(2), held.subset([1])]).prefixes == ()


def test_concatenate_keeps_every_provenance():
    first = make_set(versions={"torch": "2.11", "h5py": "3.11"}, final_loss=0.5)
    second = replace(
        first,
        provenance=Provenance(
            method="dm",
            seed=9,
            source=first.provenance.source,
            versions={"torch": "2.15", "h5py": "3.11"},
            iterations=3,
        ),
    )
    merged = concatenate([first, second]).provenance
    assert (merged.method, merged.iterations, merged.final_loss) == ("atom + dm", 10, None)
    assert merged.source == {"name": "digits"}
    assert merged.versions == {"h5py": "3.11"}
    assert [part["seed"] for part in merged.config["merged"]] == [0, 9]
    assert merged.config["merged"][0]["config"] == {"ipc": 2}
    elsewhere = replace(second, provenance=replace(second.provenance, source={"name": "mnist"}))
    assert concatenate([first, elsewhere]).provenance.source == {}


def test_concatenate_refuses_sets_that_differ():
    held = make_set()
    with pytest.raises(ConfigError, match="no sets"):
        concatenate([])
    fewer = make_set(classes=2)
    with pytest.raises(ConfigError, match=r"set 1 and set 2 differ in their class names \(3 against 2 classes\)"):
        concatenate([held, fewer])
    renamed = replace(held, class_names=("class 0", "dog", "class 2"))
    with pytest.raises(ConfigError, match=r"a.h5 and c.h5 .*\(class 1 is 'class 1' against 'dog'\)"):
        concatenate([held, held, renamed], names=["a.h5", "b.h5", "c.h5"])
    whitened = replace(make_set(zca=True), images=held.images)
    with pytest.raises(ConfigError, match=r"differ in their preprocessing: standardised .* against .*ZCA"):
        concatenate([held, whitened])


def whitened(**change):
    held = make_set(zca=True).preprocessing
    assert held.whitening is not None
    own = {"mean": held.whitening.mean, "matrix": held.whitening.matrix, "eps": 0.1}
    return Preprocessing(
        mean=held.mean, std=held.std, image_shape=held.image_shape, whitening=Whitening(**(own | change))
    )


def test_preprocessing_matches_only_its_equal():
    plain = make_set().preprocessing
    assert plain.matches(make_set(ipc=5).preprocessing)
    assert not plain.matches(replace(plain, mean=plain.mean + 1e-6))
    assert not plain.matches(replace(plain, std=plain.std * 2))
    assert not plain.matches(replace(plain, image_shape=(1, 2, 8)))
    assert whitened().matches(whitened())
    assert not whitened().matches(replace(whitened(), whitening=None))
    assert not replace(whitened(), whitening=None).matches(whitened())
    assert not whitened().matches(whitened(eps=0.2))
    assert not whitened().matches(whitened(mean=torch.zeros(16)))
    assert not whitened().matches(whitened(matrix=torch.eye(16)))


@pytest.mark.parametrize("change", [lambda images: images.to_sparse(), lambda images: images.to("meta")])
def test_images_without_every_value_are_refused(change):
    held = make_set()
    with pytest.raises(ConfigError, match="dense tensors in memory"):
        replace(held, images=change(held.images))

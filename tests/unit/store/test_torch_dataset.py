"""The lazy view: the same items as in memory, in any process, and never another file's."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from synthetic_sets import make_set
from torch.utils.data import DataLoader

from atom_plugin import store
from atom_plugin.errors import StoreError


@pytest.fixture
def held():
    return make_set(classes=3, ipc=4, shape=(3, 4, 4), zca=True)


@pytest.fixture
def path(held, tmp_path):
    held.save(tmp_path / "set.h5")
    return tmp_path / "set.h5"


def test_items_are_those_of_the_set(held, path):
    dataset = store.open_dataset(path)
    assert len(dataset) == 12
    for place in (0, 5, 11, -1):
        image, label = dataset[place]
        assert image.dtype == torch.float32
        assert torch.equal(image, held.images[place])
        assert (type(label), label) == (int, int(held.labels[place]))
    batch = dataset.__getitems__([3, 0, 3])
    assert [label for _, label in batch] == [0, 0, 0]
    assert torch.equal(torch.stack([image for image, _ in batch]), held.images[[3, 0, 3]])
    assert len(list(dataset)) == 12
    with pytest.raises(IndexError):
        dataset[12]


def test_carries_what_a_set_carries(held, path):
    dataset = store.open_dataset(path)
    assert dataset.shape == (12, 3, 4, 4)
    assert torch.equal(dataset.labels, held.labels)
    assert dataset.class_names == held.class_names
    assert dataset.provenance == held.provenance
    assert dataset.preprocessing.matches(held.preprocessing)


@pytest.mark.parametrize("empty", [{"classes": 0}, {"ipc": 0}])
def test_a_set_without_classes_or_images_is_an_empty_dataset(tmp_path, empty):
    make_set(**empty).save(tmp_path / "empty.h5")
    dataset = store.open_dataset(tmp_path / "empty.h5")
    assert len(dataset) == 0
    assert list(DataLoader(dataset, batch_size=2)) == []
    assert dataset.gather([]).shape == (0, *dataset.shape[1:])
    with pytest.raises(IndexError):
        dataset[0]


def test_items_are_copies(held, path):
    dataset = store.open_dataset(path)
    dataset[0][0].zero_()
    assert torch.equal(dataset[0][0], held.images[0])


def test_opening_reads_no_pixel_into_memory(path):
    dataset = store.open_dataset(path)
    assert dataset._mapped is None
    dataset[0]
    assert isinstance(dataset._mapped, np.memmap)


def test_pickled_it_maps_anew(held, path):
    dataset = store.open_dataset(path)
    fresh = len(pickle.dumps(dataset))
    dataset[0]
    assert len(pickle.dumps(dataset)) == fresh
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[7][0], held.images[7])


# Python 3.12 warns of every fork in a process with threads; torch has some.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers(held, path, method):
    dataset = store.open_dataset(path)
    dataset[0]  # mapped in the parent before the workers start
    loader = DataLoader(dataset, batch_size=4, num_workers=2, multiprocessing_context=method)
    images, labels = zip(*loader, strict=True)
    assert torch.equal(torch.cat(images), held.images)
    assert torch.equal(torch.cat(labels), held.labels)


def test_relative_path_survives_a_change_of_folder(held, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = store.open_dataset("set.h5")
    monkeypatch.chdir("/")
    assert torch.equal(dataset[0][0], held.images[0])


def test_refuses_a_file_that_took_its_place(path):
    dataset = store.open_dataset(path)
    make_set(classes=3, ipc=4, shape=(3, 4, 4), pixels=9).save(path, force=True)
    with pytest.raises(StoreError, match="was replaced or changed since it was opened; open it again"):
        dataset[0]


def test_keeps_the_file_it_mapped(held, path):
    dataset = store.open_dataset(path)
    dataset[0]
    make_set(classes=3, ipc=4, shape=(3, 4, 4), pixels=9).save(path, force=True)
    assert torch.equal(dataset[5][0], held.images[5])


def test_says_that_the_file_has_gone(path):
    dataset = store.open_dataset(path)
    path.unlink()
    with pytest.raises(StoreError, match="cannot be read any more"):
        dataset[0]


def test_empty_set(tmp_path):
    empty = make_set(labels=torch.zeros(0, dtype=torch.int64))
    empty.save(tmp_path / "set.h5")
    dataset = store.open_dataset(tmp_path / "set.h5")
    assert len(dataset) == 0
    assert list(dataset) == []


def test_damage_is_found_at_opening(held, path):
    data = bytearray(path.read_bytes())
    place = bytes(data).index(held.images.numpy().tobytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match="checksum"):
        store.open_dataset(path)

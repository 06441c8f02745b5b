"""What an import is told beside the file, what it asks for, and what the provenance then says."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
from small import coloured_source
from synthetic_sets import make_set

from atom_plugin.datasets import SourceRequest, torchvision_sets
from atom_plugin.errors import ConfigError
from atom_plugin.store.formats import export_set, import_set
from atom_plugin.store.formats.coding import DATASET_CONDENSATION
from atom_plugin.store.formats.context import ImportContext
from atom_plugin.transforms.preprocessing import Preprocessing

HELD = make_set(shape=(3, 8, 8), source={"name": "coloured", "fingerprint": "0123"})


@pytest.fixture
def path(tmp_path):
    export_set(HELD, tmp_path / "res.pt", format="datasetcondensation")
    return tmp_path / "res.pt"


def asks(path, *words, format="datasetcondensation", **given) -> None:
    with pytest.raises(ConfigError) as caught:
        import_set(path, format=format, context=ImportContext(**given))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_it_asks_for_what_is_missing(path):
    asks(path, "the standardisation of its images", "--like", "--dataset", "--mean and --std with --classes")
    asks(path, "the standardisation of its images", class_names=("a", "b", "c"))
    asks(path, "no class names", "--like", "--dataset", "--classes", constants=((0.5,) * 3, (0.5,) * 3))
    asks(path, "mean has 1 values", constants=((0.5,), (0.5,)), class_names=("a", "b", "c"))
    asks(path, "labels go up to 2, but there are 2 class names", like=replace_names(("a", "b")))


def replace_names(names):
    return make_set(shape=(3, 8, 8), class_names=names, classes=len(names))


def test_like_and_dataset_exclude_each_other():
    with pytest.raises(ConfigError, match="both --like and --dataset"):
        ImportContext(like=HELD, dataset="digits")


def test_a_dataset_gives_names_constants_and_where_to_test(path):
    source = coloured_source()
    context = ImportContext(dataset="coloured", load_dataset=lambda: source, method="dm")
    found = import_set(path, format="datasetcondensation", context=context)
    assert found.class_names == source.class_names
    assert found.preprocessing.matches(Preprocessing.fit(source.train.images))
    assert found.provenance.source["fingerprint"] == source.fingerprint
    assert found.provenance.method == "dm"
    wrong = coloured_source(size=4)
    asks(path, "images of 3x8x8", "--dataset are 3x4x4", dataset="x", load_dataset=lambda: wrong)


def test_a_dataset_is_loaded_once_and_only_if_asked_for(path, tmp_path):
    loads = []

    def load():
        loads.append(1)
        return coloured_source()

    import_set(path, format="datasetcondensation", context=ImportContext(dataset="x", load_dataset=load))
    assert len(loads) == 1
    export_set(HELD, tmp_path / "a.npz", format="npz")
    asks(tmp_path / "a.npz", "already contains what --dataset would give", format="npz", dataset="x", load_dataset=load)
    assert len(loads) == 1


def test_what_a_format_carries_need_not_be_given(tmp_path):
    export_set(HELD, tmp_path / "a.npz", format="npz")
    asks(tmp_path / "a.npz", "already contains what --like would give; leave that out", format="npz", like=HELD)
    given = {"class_names": ("a",), "constants": ((0.5,), (0.5,)), "method": "dm"}
    asks(tmp_path / "a.npz", "--classes and --mean, --std and --method", format="npz", **given)
    export_set(HELD, tmp_path / "a", format="folder")
    asks(
        tmp_path / "a",
        "the file names the classes class 0, ",
        "but a, b were given",
        format="folder",
        class_names=("a", "b"),
    )
    asks(tmp_path / "a", "the file names the classes", format="folder", like=replace_names(("x", "y", "z")))


def test_constants_standardise_pixels(tmp_path):
    export_set(HELD, tmp_path / "a", format="folder")
    context = ImportContext(constants=((0.5, 0.4, 0.3), (0.2, 0.2, 0.2)))
    found = import_set(tmp_path / "a", format="folder", context=context)
    assert found.preprocessing.mean.tolist() == pytest.approx([0.5, 0.4, 0.3])
    expected = HELD.true_colour().clamp(0, 1)
    torch.testing.assert_close(found.true_colour(), expected, rtol=0, atol=0.5 / 255 + 1e-5)
    assert context.notes == []


def test_provenance_says_where_from(path, tmp_path):
    found = import_set(path, format="datasetcondensation", context=ImportContext(like=HELD))
    assert found.provenance.config == {
        "imported": {
            "format": "datasetcondensation",
            "file": "res.pt",
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "files": 1,
            "options": {},
        }
    }
    assert found.provenance.source == HELD.provenance.source
    assert (found.provenance.method, found.provenance.iterations) == ("unknown", 0)
    found.save(tmp_path / "a.h5")
    export_set(found, tmp_path / "a.pt", format="pt")
    again = import_set(tmp_path / "a.pt", format="pt", context=ImportContext())
    assert again.provenance.config["imported"]["before"] == found.provenance.config["imported"]


def test_the_sha256_of_a_folder_is_that_of_its_list(tmp_path):
    export_set(HELD, tmp_path / "set", format="mtt")
    found = import_set(tmp_path / "set", format="mtt", context=ImportContext(like=HELD))
    names = ("images_best.pt", "labels_best.pt")
    lines = [f"{hashlib.sha256((tmp_path / 'set' / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    assert found.provenance.config["imported"]["sha256"] == hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def test_order_is_class_major_and_said(path):
    shuffled = replace(HELD, labels=HELD.labels.flip(0))
    torch.save({"data": [[shuffled.images, shuffled.labels]]}, path)
    context = ImportContext(like=HELD)
    found = import_set(path, format="datasetcondensation", context=context)
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert "images were sorted by class" in context.notes


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "svhn", "cifar10", "cifar100"])
def test_constants_are_those_of_our_sources(name, monkeypatch):
    monkeypatch.setattr(torchvision_sets, "_load", lambda request, known: known)
    known = getattr(torchvision_sets, f"load_{name.replace('-', '_')}")(SourceRequest())
    assert DATASET_CONDENSATION[name] == (known.mean, known.std)

"""Every format, out and in again: the same true colours, labels and names."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_sets import assert_equal_sets, make_set

from atom_plugin.errors import ConfigError
from atom_plugin.store.formats import export_set, import_set
from atom_plugin.store.formats.coding import CIFAR10_FOR_BOTH, DATASET_CONDENSATION, convert, standardised
from atom_plugin.store.formats.context import ImportContext
from atom_plugin.store.synthetic_set import SyntheticSet
from atom_plugin.transforms.preprocessing import Preprocessing

HOSTS = ["datasetcondensation", "mtt", "dd-ranking", "dc-bench"]
FLOATS = [*HOSTS, "idc"]
PICTURES = [("folder", {}), ("folder", {"image_format": "webp"}), ("huggingface", {})]
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3)
SOURCES = ["cifar10", "cifar100", "photos", None]


@st.composite
def any_set(draw: st.DrawFn, *, balanced: bool = False) -> SyntheticSet:
    """Any small set: shape, classes (some perhaps without images), order of labels, ZCA, source."""
    channels = draw(st.sampled_from([1, 3]))
    shape = (channels, draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    classes = draw(st.integers(1, 4))
    if balanced:
        labels = draw(st.permutations(list(range(classes)) * draw(st.integers(1, 3))))
    else:
        labels = draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=7))
    source = draw(st.sampled_from(SOURCES if channels == 3 else ["mnist", "photos", None]))
    return make_set(
        classes=classes,
        shape=shape,
        labels=torch.tensor(labels),
        zca=draw(st.booleans()),
        pixels=draw(st.integers(0, 2**32)),
        class_names=tuple(draw(st.lists(NAMES, min_size=classes, max_size=classes))),
        source={} if source is None else {"name": source},
    )


def neutral(held: SyntheticSet) -> Preprocessing:
    channels = held.preprocessing.image_shape[0]
    return standardised(((0.0,) * channels, (1.0,) * channels), held.preprocessing.image_shape)


def true_colours(held: SyntheticSet) -> torch.Tensor:
    """Computed in float64, so that only what a file rounded differs."""
    return convert(held.images, held.preprocessing, neutral(held))


def there_and_back(held, format, context=None, read=None, **options) -> SyntheticSet:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set"
        export_set(held, path, format=format, **options)
        return import_set(path, format=format, context=context or ImportContext(like=held), **(read or {}))


def assert_same_pictures(found: SyntheticSet, held: SyntheticSet, expected: torch.Tensor, atol: float) -> None:
    order = held.labels.argsort(stable=True)
    assert torch.equal(found.labels, held.labels[order])
    assert found.class_names == held.class_names
    torch.testing.assert_close(true_colours(found), expected[order], rtol=2e-6, atol=atol)


@pytest.mark.parametrize("format", FLOATS)
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_floats_keep_true_colours_within_rounding(format, data):
    held = data.draw(any_set(balanced=format == "dc-bench"))
    options = {"dataset": "photos"} if format == "dc-bench" and not held.provenance.source else {}
    found = there_and_back(held, format, **options)
    assert_same_pictures(found, held, true_colours(held), atol=4e-6)
    assert found.preprocessing.matches(held.preprocessing)
    assert found.provenance.source == held.provenance.source
    assert found.provenance.config["imported"]["format"] == format


@pytest.mark.parametrize("format", ["datasetcondensation", "mtt", "dd-ranking"])
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_whitened_on_request_keeps_every_bit(format, data):
    held = data.draw(any_set().filter(lambda held: held.preprocessing.whitening is not None))
    found = there_and_back(held, format, zca=True, read={"zca": True})
    assert torch.equal(found.images, held.images[held.labels.argsort(stable=True)])


@pytest.mark.parametrize("format", ["npz", "pt"])
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_our_own_keep_everything(format, data):
    held = data.draw(any_set())
    # numpy's text has no trailing zero characters, and nothing of ours allows them either
    held = replace(held, class_names=tuple(name.replace("\0", "") for name in held.class_names))
    found = there_and_back(held, format, ImportContext())
    origin = found.provenance.config["imported"]
    assert (origin["format"], origin["file"], len(origin["sha256"])) == (format, "set", 64)
    config = {key: value for key, value in found.provenance.config.items() if key != "imported"}
    assert_equal_sets(replace(found, provenance=replace(found.provenance, config=config)), held)
    true = there_and_back(held, format, ImportContext(), pixels="true-colour")
    torch.testing.assert_close(true_colours(true), true_colours(held), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("format", "options"), PICTURES)
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_pictures_keep_eight_bits(format, options, data):
    held = data.draw(any_set().filter(lambda held: not options or held.preprocessing.image_shape[0] == 3))
    expected = true_colours(held).clamp(0, 1).mul(255).round() / 255
    assert_same_pictures(there_and_back(held, format, **options), held, expected, atol=2e-6)
    names = ImportContext()
    found = there_and_back(held, format, names, **options)
    assert found.preprocessing.matches(neutral(held))  # nothing said how to standardise them
    assert any("stay on the [0, 1] scale" in note for note in names.notes)
    assert_same_pictures(found, held, expected, atol=2e-6)


def ill_conditioned() -> SyntheticSet:
    """A set under ZCA with eps 1e-6, fitted on images whose smallest eigenvalues are far below that."""
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(40, 3, 2, 2, generator=generator)
    real = torch.nn.functional.interpolate(smooth, size=(6, 6), mode="bilinear").mul(255).to(torch.uint8)
    preprocessing = Preprocessing.fit(real, zca_eps=1e-6)
    held = make_set(shape=(3, 6, 6), source={"name": "cifar10"})
    return replace(held, images=preprocessing.forward(real[: len(held)]), preprocessing=preprocessing)


@pytest.mark.parametrize("format", FLOATS)
def test_zca_with_a_tiny_eps_survives(format):
    held = ill_conditioned()
    found = there_and_back(held, format)
    torch.testing.assert_close(true_colours(found), true_colours(held), rtol=0, atol=1e-6)


@pytest.mark.parametrize("format", HOSTS)
@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
@pytest.mark.parametrize("zca", [False, True])
def test_the_file_is_standardised_as_the_loader_does_it(tmp_path, format, source, zca):
    held = make_set(shape=(3, 4, 4), zca=zca, source={"name": source})
    export_set(held, tmp_path / "set", format=format)
    constants = (CIFAR10_FOR_BOTH if format in ("mtt", "dd-ranking") else DATASET_CONDENSATION)[source]
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in constants)
    images, _ = as_its_host_reads(tmp_path / "set", format, source)
    torch.testing.assert_close(images * std + mean, held.true_colour(), rtol=1e-4, atol=1e-4)
    # and without a set like it, the constants alone give the same true colours back
    context = ImportContext(class_names=held.class_names, constants=constants)
    found = import_set(tmp_path / "set", format=format, context=context)
    torch.testing.assert_close(true_colours(found), true_colours(held), rtol=1e-5, atol=1e-5)
    assert torch.equal(found.images, images)


def as_its_host_reads(path: Path, format: str, source: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The two tensors, at the places where the toolkit's own loader looks for them."""

    def load(file: Path):
        return torch.load(file, weights_only=True)

    if format == "datasetcondensation":
        return tuple(load(path)["data"][-1])
    if format == "dc-bench":
        name = source.upper()
        return tuple(load(path / "ATOM" / name / "IPC2" / f"res_ATOM_{name}_ConvNet_2ipc.pt")["data"][-1])
    first, second = ("images_best.pt", "labels_best.pt") if format == "mtt" else ("images.pt", "labels.pt")
    return load(path / first), load(path / second)


@pytest.mark.parametrize("format", FLOATS)
@pytest.mark.parametrize("images", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("labels", [torch.int64, torch.int32, torch.uint8, torch.float32, torch.float64])
def test_other_types_in_the_files(tmp_path, format, images, labels):
    held = make_set(shape=(3, 2, 2), source={"name": "cifar10"})
    pair = (held.images.to(images), held.labels.to(labels))
    write_foreign(tmp_path / "set", format, pair)
    context = ImportContext(class_names=held.class_names, constants=DATASET_CONDENSATION["cifar10"])
    found = import_set(tmp_path / "set", format=format, context=context)
    assert torch.equal(found.labels, held.labels)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in DATASET_CONDENSATION["cifar10"])
    expected = held.images.to(images).float()
    torch.testing.assert_close(
        found.images, (expected - mean) / std if format == "idc" else expected, atol=1e-5, rtol=1e-5
    )
    said = [note for note in context.notes if "converted to whole numbers" in note]
    assert bool(said) == labels.is_floating_point


def write_foreign(path: Path, format: str, pair) -> None:
    if format == "datasetcondensation":
        accuracies = {"ConvNet": [np.float64(0.5), np.float32(0.25), 0.1], "MLP": []}
        torch.save({"data": [list(pair)], "accs_all_exps": accuracies}, path)
    elif format == "idc":
        torch.save(list(pair), path)
    else:
        folder, names = path, {"mtt": ("images_best.pt", "labels_best.pt")}.get(format, ("images.pt", "labels.pt"))
        if format == "dc-bench":
            folder = path / "random" / "CIFAR10" / "IPC2"
        folder.mkdir(parents=True)
        for name, value in zip(names, pair, strict=True):
            torch.save(value, folder / name)


@pytest.mark.parametrize("storage", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("format", ["idc", *HOSTS, "npz", "pt", "folder"])
def test_packed_sets_come_back_as_the_images_that_networks_see(tmp_path, format, storage):
    held = make_set(shape=(3, 8, 8), factor=2, storage=storage, source={"name": "cifar10"})
    suffix = {"npz": ".npz", "pt": ".pt", "idc": ".pt", "datasetcondensation": ".pt"}.get(format, "")
    notes = export_set(held, tmp_path / f"out{suffix}", format=format)
    back = import_set(
        tmp_path / f"out{suffix}",
        format=format,
        context=ImportContext(like=None if format in ("npz", "pt") else held),
        **({"factor": 2} if format == "idc" else {}),
    )
    assert back.factor == 1
    assert torch.equal(back.labels, held.decoded().labels)
    rough = 0.5 / 255 + 1e-6 if format == "folder" else 2e-5
    expected = held.true_colour().clamp(0, 1) if format == "folder" else held.true_colour()
    torch.testing.assert_close(back.true_colour(), expected, rtol=0, atol=rough)
    words = "load them with factor 2" if format == "idc" else "6 packed images were unpacked into 24"
    assert any(words in note for note in notes)


def test_an_export_for_idm_stays_packed(tmp_path):
    held = make_set(shape=(3, 8, 8), factor=2, source={"name": "cifar10"})
    notes = export_set(held, tmp_path / "idm.pt", format="datasetcondensation", packed=True)
    assert any("factor 2" in note for note in notes)
    plain = import_set(tmp_path / "idm.pt", format="datasetcondensation", context=ImportContext(like=held))
    assert len(plain) == len(held)
    torch.testing.assert_close(plain.true_colour(), held.as_stored(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="not packed"):
        export_set(make_set(), tmp_path / "no.pt", format="datasetcondensation", packed=True)

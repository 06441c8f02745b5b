from __future__ import annotations

import json
import os
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from synthetic_sets import make_set
from torchvision.datasets import ImageFolder

from atom_plugin.errors import ConfigError, PluginError, StoreError
from atom_plugin.runtime.folders import INDEX
from atom_plugin.store.formats import export_set as export
from atom_plugin.store.formats import import_set
from atom_plugin.store.formats.context import ImportContext
from atom_plugin.store.formats.file_names import folder_names


@pytest.mark.parametrize("names", [("x",) * 100_000, tuple(f"class {label}" for label in range(100_000))])
@pytest.mark.parametrize("format", ["folder", "huggingface"])
def test_the_names_of_many_classes_take_seconds(tmp_path, names, format):
    held = make_set(class_names=names, labels=torch.tensor([0, 0, 99_999]), shape=(1, 1, 1))
    start = time.perf_counter()
    export(held, tmp_path / "out", format=format)
    again = import_set(tmp_path / "out", format=format, context=ImportContext())
    assert time.perf_counter() - start < 30  # hours, where every name is compared with every other
    assert again.class_names == names
    assert torch.equal(again.labels, held.labels)


@pytest.mark.parametrize("zca", [False, True])
@pytest.mark.parametrize("pixels", ["preprocessed", "true-colour", None])
def test_npz_and_pt_hold_the_set(tmp_path, zca, pixels):
    held = make_set(zca=zca, final_loss=0.5, class_names=("a", "żółw", "c"))
    export(held, tmp_path / "set.npz", format="npz", pixels=pixels)
    export(held, tmp_path / "set.pt", format="pt", pixels=pixels)
    arrays = np.load(tmp_path / "set.npz", allow_pickle=False)
    tensors = torch.load(tmp_path / "set.pt", weights_only=True)
    expected = held.true_colour() if pixels == "true-colour" else held.images
    keys = ["images", "labels", "mean", "std"] + (["zca_mean", "zca_matrix", "zca_eps"] if zca else [])
    assert set(arrays) == set(tensors) == {*keys, "class_names", "pixels", "provenance"}
    for key in keys:
        assert torch.equal(torch.from_numpy(arrays[key]), tensors[key])
    assert torch.equal(tensors["images"], expected)
    assert torch.equal(tensors["labels"], held.labels)
    assert list(arrays["class_names"]) == tensors["class_names"] == ["a", "żółw", "c"]
    assert str(arrays["pixels"]) == tensors["pixels"] == (pixels or "preprocessed")
    assert json.loads(str(arrays["provenance"])) == tensors["provenance"]
    assert tensors["provenance"]["final_loss"] == 0.5


@pytest.mark.parametrize("format", ["npz", "pt"])
def test_equal_sets_give_equal_bytes(tmp_path, format):
    export(make_set(zca=True), tmp_path / "a", format=format)
    export(make_set(zca=True), tmp_path / "b", format=format)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with pytest.raises(StoreError, match="already exists"):
        export(make_set(), tmp_path / "a", format=format)
    export(make_set(), tmp_path / "a", format=format, force=True)
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(("shape", "mode"), [((1, 4, 6), "L"), ((3, 4, 6), "RGB")])
def test_folder_holds_true_colours(tmp_path, shape, mode):
    held = make_set(shape=shape, zca=True, class_names=("cat", "a/b", "dog"), labels=torch.tensor([0, 0, 1, 1, 1]))
    export(held, tmp_path / "out", format="folder")
    assert sorted(item.name for item in (tmp_path / "out").iterdir()) == [INDEX, "a_b", "cat", "classes.json"]
    rows = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert [(row["name"], row["images"]) for row in rows] == [("cat", 2), ("a/b", 3), ("dog", 0)]
    assert "folder" not in rows[2]
    with Image.open(tmp_path / "out" / "a_b" / "00002.png") as image:
        assert image.mode == mode
        found = np.asarray(image)
    expected = (held.true_colour()[4].clamp(0, 1) * 255).round().permute(1, 2, 0).numpy().astype("uint8")
    np.testing.assert_array_equal(found, expected.squeeze(-1) if mode == "L" else expected)
    assert ImageFolder(str(tmp_path / "out")).classes == ["a_b", "cat"]


def test_folder_is_replaced_only_if_an_export_wrote_it(tmp_path):
    out = tmp_path / "out"
    export(make_set(), out, format="folder")
    with pytest.raises(StoreError, match="already exists"):
        export(make_set(), out, format="folder")
    export(make_set(classes=1), out, format="folder", force=True)
    assert sorted(item.name for item in out.iterdir()) == [INDEX, "class 0", "classes.json"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").touch()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(out)
    for own, said in (
        ("photos", "contains mine.jpg, which was not"),
        ("file", "is not a folder"),
        ("link", "is not a folder"),
    ):
        with pytest.raises(StoreError, match=f"{said}.* is not replaced"):
            export(make_set(), tmp_path / own, format="folder", force=True)
    assert (tmp_path / "photos" / "mine.jpg").exists()
    (tmp_path / "empty").mkdir()
    export(make_set(), tmp_path / "empty", format="folder", force=True)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["empty", "file", "link", "out", "photos"]


def test_folder_that_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(StoreError, match="there is no folder"):
        export(make_set(), tmp_path / "absent" / "out", format="folder")

    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(StoreError, match="out: cannot be written: no space"):
        export(make_set(), tmp_path / "out", format="folder")
    assert list(tmp_path.iterdir()) == []


def test_options_that_do_not_fit(tmp_path):
    with pytest.raises(ConfigError, match="image files can store only true colours"):
        export(make_set(), tmp_path / "out", format="folder", pixels="preprocessed")
    with pytest.raises(PluginError, match="no format is called 'np'; did you mean 'npz'"):
        export(make_set(), tmp_path / "out", format="np")
    with pytest.raises(ConfigError, match="found pixels 'raw'"):
        export(make_set(), tmp_path / "out", format="npz", pixels="raw")
    with pytest.raises(ConfigError, match=r"'npz': .*'colour'; exported, it takes the options force, pixels|pixels"):
        export(make_set(), tmp_path / "out", format="npz", colour=True)
    with pytest.raises(ConfigError, match="image_format must be png or webp, not 'gif'"):
        export(make_set(), tmp_path / "out", format="folder", image_format="gif")
    with pytest.raises(ConfigError, match="WebP has no grey images"):
        export(make_set(), tmp_path / "out", format="folder", image_format="webp")
    with pytest.raises(ConfigError, match="found images of 2 channels, expected 1 or 3"):
        export(make_set(shape=(2, 4, 4)), tmp_path / "out", format="folder")
    assert list(tmp_path.iterdir()) == []


def test_webp_is_lossless(tmp_path):
    held = make_set(shape=(3, 5, 6))
    export(held, tmp_path / "png", format="folder")
    notes = export(held, tmp_path / "webp", format="folder", image_format="webp")
    assert "outside [0, 1] and were clipped" in notes[0]
    for file in sorted((tmp_path / "webp").glob("*/*.webp")):
        with Image.open(file) as one, Image.open(tmp_path / "png" / file.parent.name / f"{file.stem}.png") as two:
            np.testing.assert_array_equal(np.asarray(one), np.asarray(two))


def test_folder_names_of_odd_classes():
    odd = ("", ".", "..", "a/b", "a\\b", "CON", "nul.txt", " x. ", "A_B", "a\0b\n", "class", "x" * 300, "é" * 90)
    found = folder_names(odd)
    assert found[:10] == ["class", "class_1", "class_2", "a_b", "a_b_4", "CON_", "nul.txt_", "x", "A_B_8", "a_b_"]
    assert found[10] == "class_10"
    assert (len(found[11]), found[12]) == (100, "é" * 50)


@given(st.lists(st.text(max_size=4) | st.sampled_from(["a", "a_1", "A", "a_1_1", "..", "/", "com1"]), max_size=8))
@settings(max_examples=50, deadline=None)
def test_folder_names_are_safe_and_distinct(class_names):
    found = folder_names(tuple(class_names))
    assert len({name.casefold() for name in found}) == len(class_names)
    for name in found:
        assert 0 < len(os.fsencode(name)) < 200
        assert name.isprintable()
        assert not name.startswith((".", " "))
        assert not name.endswith((".", " "))
        assert not set(name) & set('/\\:*?"<>|')


def test_exports_leave_the_set_alone(tmp_path):
    held = make_set(zca=True)
    before = held.images.clone()
    export(held, tmp_path / "out", format="folder")
    export(replace(held, images=held.images.requires_grad_()), tmp_path / "a.npz", format="npz", pixels="true-colour")
    assert torch.equal(held.images, before)

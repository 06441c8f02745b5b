"""Files that are not what they should be: one clear line each, and nothing in them is run."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_sets import make_set

from atom_plugin.errors import AtomError, ConfigError, StoreError
from atom_plugin.store.formats import export_set, import_set
from atom_plugin.store.formats.context import ImportContext

HELD = make_set(shape=(3, 4, 4), source={"name": "cifar10"})
IMAGES, LABELS = HELD.images, HELD.labels
PAIRS = {"mtt": ("images_best.pt", "labels_best.pt"), "dd-ranking": ("images.pt", "labels.pt")}
TENSOR_FORMATS = ["datasetcondensation", "idc", "dc-bench", *PAIRS]
ALL = [*TENSOR_FORMATS, "npz", "pt", "folder", "huggingface"]


def context(format: str) -> ImportContext:
    return ImportContext() if format in ("npz", "pt") else ImportContext(like=HELD)


def refused(path: Path, format: str, kind: type[AtomError] = StoreError, **options) -> str:
    with pytest.raises(kind) as caught:
        import_set(path, format=format, context=context(format), **options)
    line = str(caught.value)
    assert "\n" not in line
    assert "\x1b" not in line
    assert len(line) < 500
    return line


def write(path: Path, format: str, images, labels) -> None:
    """A file of ``format`` that holds the two, whatever they are."""
    if format == "datasetcondensation":
        torch.save({"data": [[images, labels]], "accs_all_exps": {}}, path)
    elif format == "idc":
        torch.save([images, labels], path)
    elif format == "dc-bench":
        (path / "DM/CIFAR10/IPC2").mkdir(parents=True)
        write(path / "DM/CIFAR10/IPC2/res.pt", "datasetcondensation", images, labels)
    else:
        path.mkdir()
        for name, value in zip(PAIRS[format], (images, labels), strict=True):
            torch.save(value, path / name)


class Maker:
    """Unpickled, it creates a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("format", TENSOR_FORMATS)
@pytest.mark.parametrize("place", ["images", "labels"])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, format, place):
    evil = Maker(tmp_path / "created")
    write(tmp_path / "set", format, *((evil, LABELS) if place == "images" else (IMAGES, evil)))
    line = refused(tmp_path / "set", format)
    assert "contains more than data: reading it would call" in line
    assert ".mkdir;" in line
    assert "no code was run" in line
    assert "--trust-pickle" in line
    assert not (tmp_path / "created").exists()
    # trusted, it runs; what comes out is no tensor
    assert "found nothing, expected a tensor" in refused(tmp_path / "set", format, trust_pickle=True)
    assert (tmp_path / "created").exists()
    assert "be true or false" in refused(tmp_path / "set", format, ConfigError, trust_pickle="yes")


def test_code_in_our_own_formats(tmp_path):
    evil = Maker(tmp_path / "created")
    torch.save({"images": evil}, tmp_path / "a.pt")
    assert "no code was run" in refused(tmp_path / "a.pt", "pt")
    np.savez(tmp_path / "a.npz", images=np.array([evil], dtype=object), allow_pickle=True)
    assert "Object arrays cannot be loaded" in refused(tmp_path / "a.npz", "npz")
    assert "takes the options none" in refused(tmp_path / "a.npz", "npz", ConfigError, trust_pickle=True)
    assert not (tmp_path / "created").exists()


@pytest.mark.parametrize("format", TENSOR_FORMATS)
@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES, LABELS + 0.5, "found the label 0.5, expected whole numbers"),
        (IMAGES, torch.full((6,), float("nan")), "found the label nan, expected whole numbers"),
        (IMAGES, LABELS - 1, "found labels -1 to 1, expected class ids of 0 or more"),
        (IMAGES, LABELS.bool(), "found labels of type bool, expected whole numbers"),
        (IMAGES, LABELS[:5], r"found labels of shape \(5,\), expected \(6,\)"),
        (IMAGES, LABELS.view(2, 3), r"found labels of shape \(2, 3\), expected \(6,\)"),
        (IMAGES, torch.full((6, 3), float("nan")), "found soft labels that are not finite"),
        (IMAGES, None, "found nothing, expected a tensor"),
        (IMAGES, [0, 0, 1, 1, 2, 2], "found a list, expected a tensor"),
        (IMAGES.flatten(1), LABELS, r"found images of shape \(6, 48\), expected \(N, C, H, W\)"),
        (IMAGES[:, :, :0], LABELS, r"found images of shape \(6, 3, 0, 4\)"),
        (IMAGES.mul(9).to(torch.uint8), LABELS, "found images of type uint8, expected floating-point numbers"),
        (IMAGES / 0, LABELS, "found images with values that are not finite"),
        (IMAGES.double() * 1e300, LABELS, "found images with values that are not finite"),
        (IMAGES.to_sparse(), LABELS, "found a torch.sparse_coo tensor on cpu, expected a tensor"),
        (torch.zeros(1).expand(6, 3, 4, 4), LABELS, "declares more values than the file has"),
        ("images", LABELS, "found a str, expected a tensor"),
    ],
)
def test_wrong_tensors(tmp_path, format, images, labels, message):
    write(tmp_path / "set", format, images, labels)
    with pytest.raises(StoreError, match=message) as caught:
        import_set(tmp_path / "set", format=format, context=context(format))
    assert str(tmp_path / "set") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("format", TENSOR_FORMATS)
def test_labels_and_shapes_that_do_not_fit_what_was_given(tmp_path, format):
    write(tmp_path / "set", format, IMAGES, LABELS + 1)
    assert "labels go up to 3, but there are 3 class names" in refused(tmp_path / "set", format, ConfigError)
    write(tmp_path / "other", format, IMAGES[:, :, :2], LABELS)
    assert "has images of 3x2x4, but the images of --like are 3x4x4" in refused(tmp_path / "other", format, ConfigError)


@pytest.mark.parametrize("format", TENSOR_FORMATS)
def test_soft_labels_become_hard_or_are_refused_on_request(tmp_path, format):
    soft = torch.nn.functional.one_hot(LABELS, 3) * 0.5 + 0.1
    write(tmp_path / "set", format, IMAGES, soft)
    known = context(format)
    found = import_set(tmp_path / "set", format=format, context=known, soft_labels="argmax")
    assert torch.equal(found.labels, LABELS) and found.soft_labels is None
    assert "soft labels over 3 classes were replaced by the most likely class" in known.notes
    line = refused(tmp_path / "set", format, soft_labels="refuse")
    assert "found soft labels (6, 3), expected class ids" in line and "soft_labels=argmax" in line
    assert "must be keep, argmax or refuse" in refused(tmp_path / "set", format, ConfigError, soft_labels="round")
    assert "label_kind must be one of" in refused(tmp_path / "set", format, ConfigError, label_kind="odds")
    both = {"label_kind": "logits", "soft_labels": "argmax"}
    assert "label_kind has no effect with soft_labels=argmax" in refused(tmp_path / "set", format, ConfigError, **both)
    line = refused(tmp_path / "set", format, label_kind="probabilities")
    assert "sum to 0.8, expected 1" in line and str(tmp_path / "set") in line


@pytest.mark.parametrize("format", TENSOR_FORMATS)
def test_soft_labels_that_do_not_fit_what_was_given(tmp_path, format):
    write(tmp_path / "set", format, IMAGES, torch.randn(6, 4))
    line = refused(tmp_path / "set", format, ConfigError)
    assert "the file's soft labels are over 4 classes, but there are 3 class names" in line
    write(tmp_path / "hard", format, IMAGES, LABELS)
    assert "label_kind applies only to soft labels" in refused(
        tmp_path / "hard", format, ConfigError, label_kind="logits"
    )


@pytest.mark.parametrize(
    ("format", "value", "message"),
    [
        ("datasetcondensation", {"date": []}, "found date, expected a dict with the key data"),
        ("datasetcondensation", {}, "found an empty dict, expected a dict with the key data"),
        ("datasetcondensation", [IMAGES, LABELS], "found a list, expected a dict with the key data"),
        ("datasetcondensation", {"data": []}, "data is list without experiments"),
        ("datasetcondensation", {"data": {"a": 1}}, "data is dict without experiments"),
        ("datasetcondensation", {"data": [[IMAGES]]}, r"experiment 0: found 1 items, expected \[images, labels\]"),
        ("datasetcondensation", {"data": [IMAGES]}, r"experiment 0: found a Tensor, expected \[images, labels\]"),
        ("idc", {"data": []}, r"found a dict, expected \[images, labels\]"),
        ("idc", [IMAGES], r"found 1 items, expected \[images, labels\]"),
        ("pt", [IMAGES], "found a list, expected a dict"),
        ("pt", {"images": IMAGES}, "has images, but no labels, class_names, mean.*--format arrays"),
    ],
)
def test_wrong_outsides(tmp_path, format, value, message):
    torch.save(value, tmp_path / "set")
    with pytest.raises(StoreError, match=message):
        import_set(tmp_path / "set", format=format, context=context(format))


def exported(folder: Path, format: str) -> tuple[Path, list[Path]]:
    """An export of ours in ``folder``, and its files but for the list of them, which is for the next export."""
    path = folder / "set"
    export_set(HELD, path, format=format)
    return path, [path] if path.is_file() else sorted(path.rglob("[!.]*.*"))


@pytest.mark.parametrize("format", ALL)
def test_absent_files(tmp_path, format):
    assert str(tmp_path / "absent") in refused(tmp_path / "absent", format)
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refused(tmp_path / "empty", format)
    (tmp_path / "text").write_text("hello")
    assert str(tmp_path / "text") in refused(tmp_path / "text", format)


@pytest.mark.parametrize("format", ALL)
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.8])
def test_truncated_files(tmp_path, format, kept):
    path, files = exported(tmp_path, format)
    file = next((file for file in files if file.suffix in (".png", ".jsonl")), files[0])
    data = file.read_bytes()
    file.write_bytes(data[: int(kept * len(data))])
    assert str(path) in refused(path, format)


@pytest.mark.parametrize("format", ALL)
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_changed_bytes_never_end_in_anything_but_our_errors(format, data):
    with tempfile.TemporaryDirectory() as folder:
        path, files = exported(Path(folder), format)
        file = data.draw(st.sampled_from(files))
        changed = bytearray(file.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
        file.write_bytes(changed)
        try:
            import_set(path, format=format, context=context(format))
        except AtomError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("format", PAIRS)
def test_folders_without_their_files(tmp_path, format):
    write(tmp_path / "set", format, IMAGES, LABELS)
    (tmp_path / "set" / PAIRS[format][0]).unlink()
    assert f"holds no {PAIRS[format][0]}" in refused(tmp_path / "set", format)


@pytest.mark.parametrize("written", ALL)
def test_one_format_taken_for_another(tmp_path, written):
    path, _ = exported(tmp_path, written)
    for read in ALL:
        if read != written:
            refused(path, read, AtomError)


def test_fields_of_our_own_that_are_wrong(tmp_path):
    export_set(make_set(zca=True), tmp_path / "good.pt", format="pt")
    good = torch.load(tmp_path / "good.pt", weights_only=True)
    wrong = {
        "class_names": [
            ("abc", "class_names are not a list of text"),
            (["a"], "labels go up to 2, but it names 1 classes"),
        ],
        "mean": [
            (torch.zeros(2), "mean is torch.float32"),
            ([0.5], "mean is list"),
            (good["mean"] / 0, "expected finite"),
            (good["mean"].to("meta"), "mean is torch.float32 (1,), expected finite"),
            (good["mean"].to_sparse(), "mean is torch.float32 (1,), expected finite"),
        ],
        "std": [(good["std"] * 0, "std must be above 0")],
        "pixels": [("raw", "found pixels 'raw'"), (None, "found pixels None")],
        "provenance": [
            ({}, "provenance is not an object"),
            ({**good["provenance"], "seed": "1"}, "provenance: seed must be a whole number, not '1'"),
        ],
        "zca_matrix": [(torch.eye(3), "zca_matrix is torch.float32"), (None, "zca_matrix is NoneType")],
    }
    for key, cases in wrong.items():
        for value, message in cases:
            torch.save({**good, key: value}, tmp_path / "bad.pt")
            assert message in refused(tmp_path / "bad.pt", "pt")
    del good["zca_eps"]
    torch.save(good, tmp_path / "bad.pt")
    assert "expected all or none" in refused(tmp_path / "bad.pt", "pt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a list of classes"),
        ("{}", None),
        ("[1]", "is not a list of classes"),
        ('[{"id": "0", "name": "a"}]', "expected an id and a count of images of 0 or more"),
        ('[{"id": 0, "name": 7}]', "expected an id and a count of images of 0 or more"),
        ('[{"id": 0, "name": "a", "images": -1}]', "expected an id and a count of images of 0 or more"),
        ('[{"id": 0, "name": "a", "images": "2"}]', "expected an id and a count of images of 0 or more"),
        ('[{"id": 0, "name": "a", "images": 1000000000000}]', "expected an id and a count of images of 0 or more"),
        ('[{"id": 0, "name": "a"}, {"id": 0, "name": "b"}]', "gives an id twice"),
        ('[{"id": 0, "name": "a", "folder": "../secret"}]', "a folder in this folder"),
        ('[{"id": 0, "name": "a", "folder": ".."}]', "a folder in this folder"),
        ('[{"id": 0, "name": "a", "folder": "/etc"}]', "a folder in this folder"),
        ('[{"id": 0, "name": "a", "folder": "nowhere"}]', "there is no such folder"),
        ("[" * 100_000, "is not a list of classes"),
    ],
)
def test_wrong_indexes(tmp_path, text, message):
    path, _ = exported(tmp_path, "folder")
    (path / "classes.json").write_text(text)
    line = refused(path, "folder")
    assert message is None or message in line


@pytest.mark.parametrize(
    "row",
    [
        {"file_name": "../../secret.png", "label": 0},
        {"file_name": "/etc/secret.png", "label": 0},
        {"file_name": "class 0/00000.png", "label": "0"},
        {"file_name": "class 0/00000.png", "label": True},
        {"file_name": "class 0/00000.png", "label": -1},
        {"file_name": "class 0/00000.png"},
        {"label": 0},
        ["class 0/00000.png", 0],
    ],
)
def test_wrong_metadata(tmp_path, row):
    path, _ = exported(tmp_path, "huggingface")
    (path / "train" / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    assert "row 1 has file_name" in refused(path, "huggingface")


def test_images_of_several_shapes_or_none(tmp_path):
    from PIL import Image

    path, _ = exported(tmp_path, "folder")
    Image.new("RGB", (5, 4)).save(path / "class 1" / "00000.png")
    assert "is 3x4x5, but 00000.png is 3x4x4" in refused(path, "folder")
    Image.new("L", (4, 4)).save(path / "class 1" / "00000.png")
    assert "is 1x4x4, but 00000.png is 3x4x4" in refused(path, "folder")
    (tmp_path / "none" / "cat").mkdir(parents=True)
    with pytest.raises(StoreError, match="holds no images in class folders"):
        import_set(tmp_path / "none", format="folder", context=ImportContext())

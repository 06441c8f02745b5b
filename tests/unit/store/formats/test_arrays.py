"""Arrays of any tool: their names, shapes, labels and ranges, as KIP, FRePo, RFAD and users' own scripts save them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small import coloured_source
from synthetic_sets import make_set

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.store.formats import import_set
from atom_plugin.store.formats.context import ImportContext
from atom_plugin.transforms.preprocessing import Preprocessing

NAMES = ("a", "b", "c")
COLOURS = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def imported(path, *, notes=None, **options):
    context = ImportContext(class_names=NAMES)
    found = import_set(path, format="arrays", context=context, **options)
    if notes is not None:
        notes += context.notes
    return found


@pytest.mark.parametrize("names", [("images", "labels"), ("x", "y"), ("X_train", "Y_train"), ("x_proto", "y_proto")])
def test_names_that_tools_use(tmp_path, names):
    np.savez(tmp_path / "a.npz", **dict(zip(names, (COLOURS.numpy(), LABELS.numpy()), strict=True)))
    torch.save(dict(zip(names, (COLOURS, LABELS), strict=True)), tmp_path / "a.pt")
    (tmp_path / "folder").mkdir()
    for name, values in zip(names, (COLOURS, LABELS), strict=True):
        np.save(tmp_path / "folder" / f"{name}.npy", values.numpy())
    for path in (tmp_path / "a.npz", tmp_path / "a.pt", tmp_path / "folder"):
        found = imported(path)
        assert torch.equal(found.images, COLOURS) and torch.equal(found.labels, LABELS)
        assert found.class_names == NAMES


def test_names_that_must_be_told(tmp_path):
    np.savez(tmp_path / "a.npz", pixels=COLOURS.numpy(), ids=LABELS.numpy(), more=np.zeros(2))
    with pytest.raises(ConfigError, match=r"pixels \(6, 3, 8, 8\), ids \(6,\).*--option images=NAME"):
        imported(tmp_path / "a.npz")
    assert torch.equal(imported(tmp_path / "a.npz", images="pixels", labels="ids").labels, LABELS)
    with pytest.raises(ConfigError, match="no 'other'"):
        imported(tmp_path / "a.npz", images="pixels", labels="other")
    np.savez(tmp_path / "b.npz", x=COLOURS.numpy(), images=COLOURS.numpy(), y=LABELS.numpy())
    with pytest.raises(ConfigError, match="several"):
        imported(tmp_path / "b.npz")


def test_centred_soft_labels_are_kept_as_scores_and_say_so(tmp_path):
    soft = np.full((6, 3), -0.1, np.float32)
    soft[np.arange(6), LABELS.numpy()] = 0.9
    np.savez(tmp_path / "kip.npz", images=COLOURS.permute(0, 2, 3, 1).numpy(), labels=soft)
    notes = []
    found = imported(tmp_path / "kip.npz", notes=notes)
    assert torch.equal(found.labels, LABELS) and torch.equal(found.images, COLOURS)
    assert any("soft labels over 3 classes were kept as scores" in note for note in notes)
    assert (found.soft_labels.kind, found.soft_labels.values.tolist()) == ("scores", soft.tolist())
    assert imported(tmp_path / "kip.npz", soft_labels="argmax").soft_labels is None
    assert any("channels last" in note for note in notes)
    with pytest.raises(StoreError, match="soft_labels=argmax"):
        imported(tmp_path / "kip.npz", soft_labels="refuse")


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_floats_of_any_width(tmp_path, dtype):
    np.savez(tmp_path / "a.npz", x=COLOURS.numpy().astype(dtype), y=LABELS.numpy().astype(np.float32)[:, None])
    found = imported(tmp_path / "a.npz")
    torch.testing.assert_close(found.images, COLOURS, rtol=0, atol=1e-3)
    assert torch.equal(found.labels, LABELS)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_bytes_are_divided_by_255(tmp_path, dtype):
    levels = (COLOURS * 255).round()
    torch.save((levels.to(dtype), LABELS), tmp_path / "a.pt")
    if dtype == torch.float32:
        with pytest.raises(ConfigError, match=r"found pixels from 0.*--option pixels=bytes"):
            imported(tmp_path / "a.pt")
    found = imported(tmp_path / "a.pt", pixels="bytes")
    torch.testing.assert_close(found.images, levels / 255)


def test_grey_without_a_channel_axis_and_without_labels(tmp_path):
    np.save(tmp_path / "a.npy", COLOURS[:, 0].numpy())
    notes = []
    found = imported(tmp_path / "a.npy", notes=notes)
    assert torch.equal(found.images, COLOURS[:, :1]) and torch.equal(found.labels, LABELS)
    assert any("class by class" in note for note in notes)


def test_standardised_pixels_need_to_be_called_so(tmp_path):
    like = make_set(shape=(3, 8, 8))
    torch.save({"x": like.images, "y": like.labels}, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match=r"found pixels from -.*--option pixels=standardised"):
        import_set(tmp_path / "a.pt", format="arrays", context=ImportContext(like=like))
    context = ImportContext(like=like)
    found = import_set(tmp_path / "a.pt", format="arrays", context=context, pixels="standardised")
    torch.testing.assert_close(found.images, like.images, rtol=1e-4, atol=1e-4)


def test_whitened_pixels_take_the_whitening_of_like(tmp_path):
    source = coloured_source(size=4)
    like = make_set(shape=(3, 4, 4))
    like = type(like)(**{**like.__dict__, "preprocessing": Preprocessing.fit(source.train.images, zca_eps=0.1)})
    torch.save({"x": like.images, "y": like.labels}, tmp_path / "a.pt")
    context = ImportContext(like=like)
    found = import_set(tmp_path / "a.pt", format="arrays", context=context, pixels="whitened")
    assert torch.equal(found.images, like.images)


@pytest.mark.parametrize("shape", [(6, 192), (6, 3, 2, 8, 8)])
def test_other_shapes_are_named(tmp_path, shape):
    np.savez(tmp_path / "a.npz", x=np.zeros(shape, np.float32), y=LABELS.numpy())
    with pytest.raises(StoreError, match=rf"found images of shape \({shape[0]}, {shape[1]}"):
        imported(tmp_path / "a.npz")


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.uint64])
@pytest.mark.parametrize("ending", ["npz", "pt"])
def test_unsigned_numbers_of_any_width(tmp_path, kind, ending):
    arrays = {"x": (COLOURS.numpy() * 255).round().astype(kind), "y": LABELS.numpy().astype(kind)}
    path = tmp_path / f"a.{ending}"
    if ending == "npz":
        np.savez(path, **arrays)
    else:
        torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
    found = imported(path, pixels="bytes")
    assert torch.equal(found.labels, LABELS)
    torch.testing.assert_close(found.true_colour(), COLOURS, rtol=0, atol=0.5 / 255 + 1e-6)
    with pytest.raises(ConfigError, match="--option pixels=bytes"):
        imported(path)


@pytest.mark.parametrize(("kind", "words"), [(np.complex64, "complex64"), (np.bool_, "bool"), ("S3", "S3")])
@pytest.mark.parametrize("name", ["x", "y"])
def test_what_is_no_number_is_named(tmp_path, kind, words, name):
    arrays = {"x": COLOURS.numpy(), "y": LABELS.numpy()}
    np.savez(tmp_path / "a.npz", **{**arrays, name: arrays[name].astype(kind)})
    with pytest.raises(StoreError, match=f"found .*{words}"):
        imported(tmp_path / "a.npz")


def test_a_tensor_that_is_far_larger_than_its_file_is_not_looked_through(tmp_path):
    torch.save({"x": torch.zeros(1).expand(10**9, 3, 32, 32), "y": LABELS}, tmp_path / "a.pt")
    with pytest.raises(StoreError, match="declares more values than the file has"):
        imported(tmp_path / "a.pt")


def test_what_holds_no_arrays(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.npy").write_bytes(b"nothing")
    np.save(tmp_path / "b.npy", np.array([{}], dtype=object))
    np.save(tmp_path / "long.npy", COLOURS.numpy())
    whole = (tmp_path / "long.npy").read_bytes()
    (tmp_path / "long.npy").write_bytes(whole.replace(b"(6, 3, 8, 8)", b"(9999999,3,8,8)"[:12])[:-1])
    with pytest.raises(ConfigError, match="holds nothing"):
        imported(tmp_path / "empty")
    for name in ("a", "b", "long"):
        with pytest.raises(StoreError, match=r"cannot be read as \.npy"):
            imported(tmp_path / f"{name}.npy")
    torch.save({"images": COLOURS.to_sparse(), "labels": LABELS}, tmp_path / "c.pt")
    with pytest.raises(StoreError, match="expected a tensor"):
        imported(tmp_path / "c.pt")
    with pytest.raises(ConfigError, match="pixels must be one of"):
        imported(tmp_path / "empty", pixels="raw")

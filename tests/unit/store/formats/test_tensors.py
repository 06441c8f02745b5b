"""Torch files: numpy scalars as either numpy writes them, damage told from code, memory that a file does not hold."""

from __future__ import annotations

import io
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from atom_plugin.errors import StoreError
from atom_plugin.store.formats.context import ImportContext
from atom_plugin.store.formats.tensors import dumps, load

SCALARS = [np.float64(0.25), np.float32(-1.5), np.float16(2), np.int64(-3), np.int32(7), np.uint8(200), np.bool_(True)]


def saved(path: Path, value, *, numpy: int = 2) -> Path:
    """``value`` as torch.save writes it where numpy 1 or numpy 2 is installed: they name one module differently."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    new, old = b"numpy._core.multiarray", b"numpy.core.multiarray"
    with zipfile.ZipFile(buffer) as found, zipfile.ZipFile(path, "w") as written:
        for name in found.namelist():
            data = found.read(name)
            if name.endswith("data.pkl"):
                data = data.replace(old, new) if numpy == 2 else data.replace(new, old)
            written.writestr(name, data)
    return path


@pytest.mark.parametrize("numpy", [1, 2])
def test_numpy_scalars_become_numbers_without_numpy(tmp_path, numpy):
    before = set(torch.serialization.get_safe_globals())
    path = saved(tmp_path / "a.pt", {"accs": SCALARS, "big": np.float64(1.5).astype(">f8")}, numpy=numpy)
    found = load(path, ImportContext())
    assert found["accs"] == [0.25, -1.5, 2.0, -3, 7, 200, True]
    assert {type(item) for item in found["accs"]} == {float, int, bool}
    assert set(torch.serialization.get_safe_globals()) == before  # nothing stays allowed


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (np.array([1.0]), "numpy._core.multiarray._reconstruct"),
        (Path("a"), "pathlib"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (np.datetime64("2020-01-01"), "numpy values of type"),
        (np.str_("a"), "numpy values of type"),
    ],
)
def test_more_than_data_is_named(tmp_path, value, named):
    torch.save({"data": value}, tmp_path / "a.pt")
    with pytest.raises(StoreError) as caught:
        load(tmp_path / "a.pt", ImportContext())
    assert named in str(caught.value) or "numpy.core" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numpy_arrays_are_read_from_trusted_files(tmp_path):
    torch.save({"data": np.array([1.0])}, tmp_path / "a.pt")
    assert load(tmp_path / "a.pt", ImportContext(), trust_pickle=True)["data"].tolist() == [1.0]


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_both_containers_of_torch(tmp_path, options):
    value = OrderedDict(a=torch.arange(3), b=[1.5, None, "text", True])
    torch.save(value, tmp_path / "a.pt", **options)
    found = load(tmp_path / "a.pt", ImportContext())
    assert torch.equal(found["a"], value["a"])
    assert found["b"] == value["b"]


def test_damage_is_not_called_code(tmp_path):
    for data in (b"", b"\x80\x02", b"PK\x03\x04", b"\x00" * 100, b"hello world", b"\x80\x02cos\nsystem\n"):
        (tmp_path / "a.pt").write_bytes(data)
        with pytest.raises(
            StoreError, match=r"cannot be read as a file of torch.save|contains more than data"
        ) as caught:
            load(tmp_path / "a.pt", ImportContext())
        assert "\n" not in str(caught.value)


def test_other_protocols_need_trust(tmp_path):
    torch.save([torch.arange(3)], tmp_path / "a.pt", pickle_protocol=4)
    with pytest.raises(
        StoreError, match=r"is damaged, or its pickle contains more than data .*; no code was run.*--trust-pickle"
    ):
        load(tmp_path / "a.pt", ImportContext())
    assert torch.equal(load(tmp_path / "a.pt", ImportContext(), trust_pickle=True)[0], torch.arange(3))


def test_equal_values_give_equal_bytes():
    assert bytes(dumps([torch.arange(4), {"a": 1}])) == bytes(dumps([torch.arange(4), {"a": 1}]))

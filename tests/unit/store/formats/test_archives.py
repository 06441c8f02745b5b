"""Archives that would fill the memory are refused by what their directories declare."""

from __future__ import annotations

import io
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from synthetic_sets import make_set

from atom_plugin.errors import StoreError
from atom_plugin.store.formats import archives, export_set, import_set
from atom_plugin.store.formats.context import ImportContext


def bomb(path, member: str, size: int) -> None:
    """A zip archive with ``size`` zero bytes behind a small head, written without holding them."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(member, "w", force_zip64=True) as file,
    ):
        if member.endswith(".npy"):
            head = {"descr": "<f4", "fortran_order": False, "shape": (size // (4 * 3072), 3, 32, 32)}
            np.lib.format.write_array_header_1_0(file, head)
        for _ in range(size // 2**20):
            file.write(bytes(2**20))


@pytest.mark.parametrize(
    ("name", "format", "member"),
    [
        ("set.npz", "npz", "images.npy"),
        ("set.npz", "npz", "unknown.npy"),
        ("set.pt", "pt", "archive/data/0"),
        ("set.pt", "datasetcondensation", "archive/data/0"),
        ("set.pt", "idc", "archive/data/0"),
    ],
)
def test_small_archives_of_large_contents_are_refused_unread(tmp_path, name, format, member):
    bomb(tmp_path / name, member, 200 * 2**20)
    start = time.perf_counter()
    tracemalloc.start()
    with pytest.raises(StoreError, match=r"unpacks from [\d,]+ bytes to 2\d\d,"):
        import_set(
            tmp_path / name, format=format, context=ImportContext(class_names=("a", "b"), constants=((0.5,), (0.5,)))
        )
    assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    tracemalloc.stop()
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize("format", ["npz", "pt"])
def test_what_is_larger_than_the_machine_is_refused(tmp_path, format, monkeypatch):
    export_set(make_set(), tmp_path / "set", format=format)
    monkeypatch.setattr(archives, "machine_memory", lambda: 1000)
    with pytest.raises(StoreError, match="more than half of this machine's memory"):
        import_set(tmp_path / "set", format=format, context=ImportContext())


def test_ordinary_compression_is_read(tmp_path):
    export_set(make_set(), tmp_path / "set.npz", format="npz")
    with np.load(tmp_path / "set.npz") as arrays:
        np.savez_compressed(tmp_path / "small.npz", **arrays)
    found = import_set(tmp_path / "small.npz", format="npz", context=ImportContext())
    assert torch.equal(found.images, make_set().images)


def test_what_is_no_archive_is_left_to_its_reader(tmp_path):
    file = io.BytesIO(b"PK\x03\x04 and no more")
    archives.refuse_bomb(tmp_path, file)
    assert file.tell() == 0

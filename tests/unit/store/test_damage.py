"""Files that are not, or no longer, synthetic sets: one clear line each, whatever HDF5 thinks of them."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import time

import h5py
import numpy as np
import pytest
from synthetic_sets import assert_equal_sets, golden_set, make_set

from atom_plugin import store
from atom_plugin.errors import StoreError
from atom_plugin.store.codec import encode
from atom_plugin.store.hdf5_writer import serialise
from atom_plugin.store.schema import FORMAT_VERSION
from atom_plugin.store.synthetic_set import fields_of

READERS = [store.read, store.verify, store.read_header, store.open_dataset]


def refused(path, reader=store.read) -> str:
    """The one line that ``reader`` refuses ``path`` with."""
    with pytest.raises(StoreError) as raised:
        reader(path)
    line = str(raised.value)
    assert "\n" not in line
    assert line.startswith(f"{path}: ")
    assert "; " in line  # what to do
    return line


def crafted(tmp_path, *, drop=(), **changes):
    """A file with a right checksum over wrong elements; ``/`` in a name is written ``__``."""
    arrays = encode(fields_of(make_set(zca=True, final_loss=1.0)))
    arrays |= {key.replace("__", "/"): np.asarray(value) for key, value in changes.items()}
    path = tmp_path / "crafted.h5"
    path.write_bytes(serialise({key: array for key, array in arrays.items() if key not in drop}))
    return path


def soft(values, kind=b"logits"):
    return {"soft_labels__values": values, "soft_labels__kind": np.array(kind)}


def test_crafted_file_itself_is_sound(tmp_path):
    assert_equal_sets(store.read(crafted(tmp_path)), make_set(zca=True, final_loss=1.0))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"hello, this is text", "is not an HDF5 file"),
        (b"\x89HDF\r\n\x1a\n", "cannot be read as HDF5"),
        (b"PK\x03\x04" + bytes(100), "is not an HDF5 file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(4096), "cannot be read as HDF5"),
    ],
)
@pytest.mark.parametrize("reader", READERS)
def test_other_files(tmp_path, content, words, reader):
    path = tmp_path / "file.h5"
    path.write_bytes(content)
    assert words in refused(path, reader)


def test_no_file_at_all(tmp_path):
    assert "there is no such file" in refused(tmp_path / "absent.h5")
    assert "is a folder" in refused(tmp_path)
    (tmp_path / "file").touch()
    assert "cannot be opened" in refused(tmp_path / "file" / "set.h5")
    assert "File name too long" in refused(tmp_path / ("x" * 300))
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" in refused(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    assert "there is no such file" in refused(tmp_path / "dangling")


def test_unreadable_file(tmp_path, monkeypatch):
    path = tmp_path / "set.h5"
    make_set().save(path)

    def deny(self, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(type(path), "open", deny)
    assert "no permission to read it" in refused(path)


def test_another_hdf5_file(tmp_path):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["weights"] = np.zeros(3)
        file["bias"] = np.zeros(3)
        file.attrs["format"] = "keras"
    line = refused(path)
    assert "is an HDF5 file, but not a synthetic set: found keys bias, weights, expected the attribute format" in line


@pytest.mark.parametrize("reader", READERS)
def test_newer_version_asks_to_update(tmp_path, reader):
    path = crafted(tmp_path)
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = FORMAT_VERSION + 1
        del file["images"]
    line = refused(path, reader)
    assert f"has format version {FORMAT_VERSION + 1}" in line
    assert line.endswith("update atom-plugin")


@pytest.mark.parametrize("version", [0, -1, "1", 1.5])
def test_version_must_be_a_version(tmp_path, version):
    path = crafted(tmp_path)
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = version
    assert "format_version: found" in refused(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"drop": ["images"]}, "images is missing"),
        ({"drop": ["provenance/seed"]}, "provenance/seed is missing"),
        ({"drop": ["preprocessing/zca/eps"]}, "preprocessing/zca/eps is missing"),
        ({"images": np.zeros((6, 1, 4, 4), "<f8")}, "images: found values of type <f8, expected <f4"),
        ({"images": np.zeros((6, 16), "<f4")}, "images: found shape (6, 16), expected (N, C, H, W)"),
        ({"images": np.zeros((6, 1, 4, 0), "<f4")}, "images: found shape (6, 1, 4, 0), expected"),
        ({"labels": np.zeros(5, "<i8")}, "labels: found shape (5,), expected (N) with N = 6"),
        ({"labels": np.full(6, 3, "<i8")}, "labels: found 3 to 3, expected 0 to 2"),
        ({"labels": np.full(6, -1, "<i8")}, "labels: found -1 to -1, expected 0 to 2"),
        ({"labels": np.zeros(6, "<i4")}, "labels: found values of type <i4"),
        ({"class_names": np.zeros(3, "<i8")}, "class_names: found values of type <i8, expected text"),
        ({"class_names": np.array([b"a", b"\xff", b"c"])}, "class_names: found bytes that are not UTF-8"),
        ({"preprocessing__std": np.array([-1], "<f4")}, "preprocessing/std: found -1.0, expected values above 0"),
        ({"preprocessing__mean": np.array([np.nan], "<f4")}, "preprocessing/mean: found 1 of 1 values not finite"),
        ({"preprocessing__image_shape": np.array([1, 2, 8])}, "preprocessing/image_shape: found (1, 2, 8)"),
        ({"preprocessing__zca__matrix": np.zeros((16, 15), "<f4")}, "expected (D, D) with D = 16"),
        ({"preprocessing__zca__eps": np.float64(0)}, "preprocessing/zca/eps: found 0.0, expected values above 0"),
        ({"provenance__config": np.array(b"{")}, "provenance/config: found text that is not JSON"),
        ({"provenance__config": np.array(b"[]")}, "provenance/config: found a JSON list, expected an object"),
        ({"provenance__config": np.array(b"[" * 100_000)}, "provenance/config: found values nested"),
        (
            {"provenance__config": np.array(b'{"a":' * 900 + b"1" + b"}" * 900)},
            "provenance/config: found values nested",
        ),
        (
            {"provenance__config": np.array(b'{"lr": NaN}')},
            "provenance/config: found the number NaN, expected a finite one",
        ),
        ({"provenance__source": np.array(b'{"lr": 1e999}')}, "provenance/source: found the number inf"),
        (
            {"provenance__config": np.array(b'{"n": 1' + b"0" * 30 + b"}")},
            "provenance/config: found a whole number of 31",
        ),
        (
            {"provenance__config": np.array(b'{"network": "convnet"}')},
            "config['network'] must be an object, not 'convnet'",
        ),
        ({"provenance__config": np.array(b'{"merged": []}')}, "config['merged'] must name the parts"),
        ({"provenance__source": np.array(b'{"name": null}')}, "source['name'] must be a text, not None"),
        ({"provenance__source": np.array(b'{"options": []}')}, "source['options'] must be an object"),
        ({"provenance__versions": np.array(b'{"torch": 2}')}, "versions['torch'] must be a text, not 2"),
        ({"provenance__method": np.array(b"a\0b")}, "provenance/method: found 'a\\x00b': it contains a zero character"),
        (
            {"class_names": np.array([b"a", b"b\0b", b"c"])},
            "class_names: found 'b\\x00b': it contains a zero character",
        ),
        ({"provenance__seed": np.zeros(2, "<i8")}, "provenance/seed: found shape (2,), expected ()"),
        ({"soft_labels__kind": np.array(b"logits")}, "soft_labels/values is missing"),
        ({"soft_labels__values": np.zeros((6, 3), "<f4")}, "soft_labels/kind is missing"),
        (soft(np.zeros((6, 2), "<f4")), "soft_labels/values: found shape (6, 2), expected (N, K) with N = 6, K = 3"),
        (soft(np.zeros((6, 3), "<f8")), "soft_labels/values: found values of type <f8, expected <f4"),
        (soft(np.full((6, 3), np.nan, "<f4")), "soft_labels/values: found 18 of 18 values not finite"),
        (soft(np.full((6, 3), 0.5, "<f4"), b"probabilities"), "soft_labels: the probabilities of image 0 sum to 1.5"),
        (soft(np.zeros((6, 3), "<f4"), b"odds"), "soft_labels: no kind of soft labels is called 'odds'"),
        ({"learned_lr": np.float64(-1)}, "learned_lr: found -1.0, expected values above 0"),
        ({"images": np.full((6, 1, 4, 4), np.inf, "<f4")}, "images: found 96 of 96 values not finite"),
    ],
)
def test_wrong_elements_are_named(tmp_path, changes, words):
    path = crafted(tmp_path, **changes)
    assert words in refused(path, store.read)
    assert words in refused(path, store.open_dataset)
    assert words in refused(path, store.verify)
    if not words.startswith("images: found 96"):  # the header reads no pixels
        assert words in refused(path, store.read_header)


def damaged_variants(data: bytes, count: int):
    chosen = random.Random(0)
    for _ in range(count):
        place = chosen.randrange(len(data))
        yield place, data[:place] + bytes([data[place] ^ 1 << chosen.randrange(8)]) + data[place + 1 :]


def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path):
    path = tmp_path / "set.h5"
    golden = golden_set()
    for place, data in damaged_variants(bytes(serialise(encode(fields_of(golden)))), 200):
        path.write_bytes(data)
        try:
            found = store.read(path)
        except StoreError as error:
            assert "\n" not in str(error), place
        else:
            assert_equal_sets(found, golden)
        # The header leaves pixels alone, so it may succeed; another exception it may not raise.
        with contextlib.suppress(StoreError):
            store.read_header(path)


def test_truncated_files(tmp_path):
    path = tmp_path / "set.h5"
    data = bytes(serialise(encode(fields_of(golden_set()))))
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        refused(path)


def declare(path, make) -> None:
    """Replace ``images`` by what ``make(file)`` creates, as an attacker would."""
    with h5py.File(path, "r+") as file:
        del file["images"]
        make(file)


def chunked(file):
    file.create_dataset("images", (2**36, 1, 4, 4), "<f4", chunks=(1, 1, 4, 4))


def unallocated(file):
    file.create_dataset("images", (2**36, 1, 4, 4), "<f4")


def external(file):
    file.create_dataset("images", (6, 1, 4, 4), "<f4", external=[("/etc/passwd", 0, 384)])


def virtual(file):
    layout = h5py.VirtualLayout((6, 1, 4, 4), "<f4")
    file.create_virtual_dataset("images", layout)


def linked(file):
    file["images"] = h5py.ExternalLink("elsewhere.h5", "images")


def variable(file):
    file.create_dataset("images", data=["a"] * 6, dtype=h5py.string_dtype())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (chunked, "in chunks of (1, 1, 4, 4)"),
        (unallocated, "not contiguous"),
        (external, "not contiguous"),
        (virtual, "not contiguous"),
        (linked, "images is missing"),
        (variable, "expected numbers or text of a fixed length"),
    ],
)
def test_storage_that_is_not_in_the_file(tmp_path, make, words):
    path = crafted(tmp_path)
    declare(path, make)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for reader in READERS:
        assert words in refused(path, reader)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB; 2**36 images are 4 TiB


def test_data_beyond_the_end_of_the_file(tmp_path, monkeypatch):
    path = crafted(tmp_path)
    size = path.stat().st_size
    # HDF5 itself notices a file that was cut; here one that it takes to be longer than it is.
    monkeypatch.setattr("atom_plugin.store.hdf5_reader.identity", lambda status: (0, size - 1000, 0))
    line = refused(path)
    assert "ends at byte" in line
    assert f"but the file has {size - 1000}" in line


def test_disk_errors_while_reading(tmp_path, monkeypatch):
    path = tmp_path / "set.h5"
    make_set().save(path)

    def fail(*arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("atom_plugin.store.hdf5_reader.load", fail)
    assert "Input/output error" in refused(path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"compression": "gzip"}, "compressed (gzip)"),
        ({"compression": "lzf"}, "compressed (lzf)"),
        ({"chunks": (2, 1, 4, 4)}, "in chunks of (2, 1, 4, 4)"),
        ({"chunks": (2, 1, 4, 4), "shuffle": True}, "behind filters"),
    ],
)
@pytest.mark.parametrize("reader", READERS)
def test_a_rewritten_file_is_not_called_damaged(tmp_path, options, words, reader):
    path = crafted(tmp_path)
    with h5py.File(path, "r+") as file:
        images = file["images"][()]
        del file["images"]
        file.create_dataset("images", data=images, **options)
    line = refused(path, reader)
    assert words in line and "h5repack -l CONTI" in line and "damaged" not in line


@pytest.mark.parametrize("size", [512, 4096])
def test_a_user_block_is_named(tmp_path, size):
    path = crafted(tmp_path)
    path.write_bytes(b"notes" + bytes(size - 5) + path.read_bytes())
    line = refused(path)
    assert f"a user block of {size} bytes" in line and "h5unjam" in line


def flat(file):
    for number in range(3000):
        file.create_group(f"g{number}")


def nested(file):
    for _ in range(500):
        file = file.create_group("g")


def described(file):
    group = file.create_group("g", track_order=True)
    for number in range(1500):
        group.attrs[f"a{number}"] = number


@pytest.mark.parametrize(
    ("make", "words"), [(flat, "1000 groups"), (nested, "32 nested"), (described, "1000 attributes")]
)
def test_more_objects_than_a_set_has_are_not_listed(tmp_path, make, words):
    path = crafted(tmp_path)
    with h5py.File(path, "r+", libver="latest") as file:
        make(file)
    start = time.perf_counter()
    for reader in READERS:
        assert words in refused(path, reader)
    assert time.perf_counter() - start < 20  # minutes, without a limit, where there are ten times as many

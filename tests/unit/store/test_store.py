"""Writing and reading: what goes in comes out, the same set gives the same bytes, and the file is as documented."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_sets import assert_equal_sets, golden_packed_set, golden_set, golden_soft_set, make_set

from atom_plugin import store
from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.store.files import write_fields
from atom_plugin.store.schema import ELEMENTS, FORMAT, FORMAT_VERSION, GROUPS
from atom_plugin.store.soft_labels import KINDS
from atom_plugin.store.synthetic_set import SyntheticSet, fields_of
from atom_plugin.transforms.packing import unpack
from atom_plugin.transforms.preprocessing import to_uint8

TESTS = Path(__file__).parents[2]
GOLDEN = TESTS / "golden" / "synthetic-set-v1.h5"
PAGE = (TESTS.parent / "docs" / "file-format.md").read_text(encoding="utf-8")

# Whatever a folder may be called, and more: everything but surrogates, which are no text, and the zero character.
NESTED = json.loads("[" * 100 + "]" * 100)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


def from_page(block: str) -> dict[str, object]:
    """Run one code block of docs/file-format.md and return its names."""
    found = re.search(rf"<!-- test: {block} -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    space: dict[str, object] = {}
    exec(found[1], space)
    return space


@given(
    class_names=st.lists(names, min_size=1, max_size=5),
    shape=st.tuples(st.sampled_from([1, 2, 3]), st.integers(1, 4), st.integers(1, 4)),
    zca=st.booleans(),
    seed=st.integers(-(2**63), 2**64 - 1),
    final_loss=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    config=st.dictionaries(
        st.text(max_size=5), st.none() | st.text(max_size=5) | st.integers(-(2**63), 2**64 - 1) | st.booleans()
    ),
    data=st.data(),
)
@settings(max_examples=15, deadline=None)
def test_round_trip(tmp_path_factory, class_names, shape, zca, seed, final_loss, config, data):
    labels = torch.tensor(data.draw(st.lists(st.integers(0, len(class_names) - 1), max_size=6)), dtype=torch.int64)
    held = make_set(class_names=tuple(class_names), labels=labels, shape=shape, zca=zca, config=config)
    held = replace(held, provenance=replace(held.provenance, seed=seed, final_loss=final_loss))
    path = tmp_path_factory.mktemp("round") / "set.h5"
    store.write(held, path)
    assert_equal_sets(store.read(path), held)
    assert from_page("checksum")["checksum"](path) == store.verify(path).checksum


def test_save_and_load_are_the_store(tmp_path):
    held = make_set(zca=True)
    held.save(str(tmp_path / "set.h5"))
    assert_equal_sets(SyntheticSet.load(str(tmp_path / "set.h5")), held)


def test_layout_of_tensors_in_memory_does_not_matter(tmp_path):
    held = make_set(shape=(3, 4, 4))
    strided = held.images.contiguous(memory_format=torch.channels_last).requires_grad_()
    store.write(held, tmp_path / "a.h5")
    store.write(replace(held, images=strided), tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_equal_sets_give_equal_bytes(tmp_path):
    one = make_set(zca=True, config={"a": 1, "b": {"c": 2, "d": 3}})
    other = make_set(zca=True, config={"b": {"d": 3, "c": 2}, "a": 1})
    store.write(one, tmp_path / "a.h5")
    store.write(other, tmp_path / "b.h5")
    store.write(store.read(tmp_path / "a.h5"), tmp_path / "c.h5")
    written = (tmp_path / "a.h5").read_bytes()
    assert written == (tmp_path / "b.h5").read_bytes() == (tmp_path / "c.h5").read_bytes()


def test_equal_bytes_in_another_process_and_at_another_time(tmp_path):
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "clock = time.time; time.time = lambda: clock() + 1e6\n"
        "from synthetic_sets import golden_set; golden_set().save(sys.argv[2])"
    )
    # MALLOC_PERTURB_ fills fresh memory with junk, which would show in padding that nobody initialised.
    environment = os.environ | {"MALLOC_PERTURB_": "165", "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", script, TESTS, tmp_path / "a.h5"], env=environment, check=True)
    golden_set().save(tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_no_creation_time_is_stored(tmp_path):
    make_set(zca=True).save(tmp_path / "set.h5")
    with h5py.File(tmp_path / "set.h5") as file:
        objects = [file, *(file[name] for name in [*GROUPS, *ELEMENTS] if name in file)]
        assert [h5py.h5o.get_info(item.id).mtime for item in objects] == [0] * len(objects)


def test_file_of_version_1_is_read():
    assert_equal_sets(store.read(GOLDEN), golden_set())
    header = store.verify(GOLDEN)
    assert (header.version, header.written_by, header.size) == (1, "atom-plugin 0.1.0", 8280)
    assert header.checksum == from_page("checksum")["checksum"](GOLDEN)


def test_file_of_version_2_is_read():
    path = GOLDEN.with_name("synthetic-set-v2.h5")
    held = store.read(path)
    assert_equal_sets(held, golden_packed_set())
    header = store.verify(path)
    assert (header.version, header.storage, header.factor, header.prefixes) == (2, "uint8", 2, (1, 2))
    assert header.checksum == from_page("checksum")["checksum"](path)
    assert len(held.decoded()) == 24


def test_file_of_version_3_is_read():
    path = GOLDEN.with_name("synthetic-set-v3.h5")
    assert_equal_sets(store.read(path), golden_soft_set())
    header = store.verify(path)
    assert (header.version, header.soft_labels.kind, header.soft_label_bytes, header.learned_lr) == (
        3,
        "logits",
        72,
        0.03125,
    )
    assert header.checksum == from_page("checksum")["checksum"](path)


def test_page_reads_a_set_without_this_package(tmp_path, monkeypatch):
    for zca in (True, False):
        held = make_set(zca=zca, shape=(3, 2, 2), class_names=("a", "żółw", "c"))
        held.save(tmp_path / "set.h5", force=True)
        monkeypatch.chdir(tmp_path)
        found = from_page("read")
        assert found["class_names"] == ["a", "żółw", "c"]
        assert found["config"] == {"ipc": 2}
        np.testing.assert_allclose(found["pixels"], held.true_colour().clamp(0, 1).numpy(), atol=1e-5)
    for storage in ("float16", "uint8"):
        packed = make_set(shape=(3, 4, 4), factor=2, storage=storage)
        packed.save(tmp_path / "set.h5", force=True)
        found = from_page("read")
        tiles = torch.from_numpy(found["pixels"]).float()
        enlarged = torch.nn.functional.interpolate(tiles, size=(4, 4), mode="bilinear", align_corners=False)
        seen = packed.true_colour() if storage == "uint8" else unpack(packed.as_stored().clamp(0, 1), 2)
        torch.testing.assert_close(enlarged, seen, rtol=0, atol=1e-5)
        assert found["labels"].tolist() == packed.decoded().labels.tolist()
        assert found["soft"] is None
    packed = make_set(shape=(3, 4, 4), factor=2, soft="scores")
    packed.save(tmp_path / "set.h5", force=True)
    assert np.array_equal(from_page("read")["soft"], packed.decoded().soft_labels.values.numpy())


def test_page_names_every_element_with_type_and_shape():
    rows = dict(re.findall(r"^\| `([^`]+)` \| ([^|]*\|[^|]*) \|", PAGE, re.MULTILINE))
    kinds = {
        "<f4": "float32",
        "<f2": "float16",
        "|u1": "uint8",
        "<f8": "float64",
        "<i8": "int64",
        "<u8": "uint64",
        "text": "text",
        "json": "json",
    }
    for key, element in ELEMENTS.items():
        types = " or ".join(kinds[dtype] for dtype in element.dtypes)
        assert rows[key] == f"{types} | {', '.join(element.axes.split()) or 'scalar'}"
    assert {key for key in rows if key.endswith("/")} == {f"{group}/" for group in GROUPS}
    assert f"`{FORMAT}`" in PAGE
    assert f"version {FORMAT_VERSION}\n" in PAGE.partition("\n")[0] + "\n"


def test_every_element_describes_itself(tmp_path):
    make_set(zca=True, final_loss=0.5).save(tmp_path / "whitened.h5")
    packed_set = make_set(factor=2, final_loss=0.5, soft="probabilities")
    complete = fields_of(replace(packed_set, prefixes=(1, 2), learned_lr=0.5))
    write_fields(complete, tmp_path / "packed.h5", logits=torch.zeros(6, 4, 3).half())
    with h5py.File(tmp_path / "whitened.h5") as file, h5py.File(tmp_path / "packed.h5") as packed:
        for key in ELEMENTS:
            found = packed[key] if key in packed else file[key]
            assert set(found.attrs) == {"axes", "units", "description"}
            assert all(text.decode() for text in found.attrs.values())
            assert found.chunks is None
        for group in GROUPS:
            assert set((packed if group in packed else file)[group].attrs) == {"description"}
        assert h5py.check_string_dtype(file["class_names"].dtype).encoding == "utf-8"


def test_header_says_all_but_pixels(tmp_path):
    held = make_set(classes=3, zca=True, final_loss=0.25, labels=torch.tensor([0, 0, 2]))
    held.save(tmp_path / "set.h5")
    header = store.read_header(tmp_path / "set.h5")
    assert header.shape == (3, 1, 4, 4)
    assert header.counts == {0: 2, 2: 1}
    assert header.class_names == held.class_names
    assert header.provenance == held.provenance
    assert header.zca_eps == 0.1
    assert header.mean == tuple(held.preprocessing.mean.tolist())
    assert header.size == (tmp_path / "set.h5").stat().st_size


def test_header_reads_neither_pixels_nor_matrix(tmp_path):
    path = tmp_path / "set.h5"
    make_set(zca=True).save(path)
    with h5py.File(path) as file:
        places = [file[key].id.get_offset() for key in ("images", "preprocessing/zca/matrix")]
    data = bytearray(path.read_bytes())
    for place in places:
        data[place : place + 4] = b"\xff\xff\xff\xff"  # not a number
    path.write_bytes(data)
    store.read_header(path)
    with pytest.raises(StoreError, match="checksum"):
        store.verify(path)


def test_elements_of_later_writers_are_ignored_and_covered_by_the_checksum(tmp_path):
    path = tmp_path / "set.h5"
    held = make_set()
    held.save(path)
    with h5py.File(path, "r+") as file:
        file["provenance"].create_dataset("hours", data=np.float64(1.5))
        file["images"].attrs["unit_of_later"] = 3
    with pytest.raises(StoreError, match="checksum"):
        store.read(path)
    checksum = from_page("checksum")["checksum"](path)
    with h5py.File(path, "r+") as file:
        file.attrs.create("checksum", np.bytes_(checksum), dtype=h5py.string_dtype("utf-8", 64))
    assert_equal_sets(store.read(path), held)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config": {"lr": float("nan")}}, "provenance/config: .* cannot be written as json"),
        ({"config": {"path": Path("x")}}, "provenance/config: .* cannot be written as json"),
        ({"seed": 2**64}, "provenance/seed: .* cannot be written"),
        ({"config": {"ids": [2**64]}}, "provenance/config: .* whole number beyond 64 bits"),
        ({"config": {"deep": NESTED}}, "provenance/config: .* nested more than 64 deep"),
    ],
)
def test_refuses_to_write_what_it_could_not_read(tmp_path, change, words):
    with pytest.raises(StoreError, match=f"set.h5: not written: {words}"):
        make_set(**change).save(tmp_path / "set.h5")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"class_names": ("a", "b\0c", "d")}, "name of class 1 .*'b.x00c': it contains a zero character"),
        ({"class_names": ("a", "b\udcff", "d")}, "name of class 1 .* not Unicode text"),
        ({"class_names": ("a", 3, "d")}, "name of class 1 must be a text, not 3"),
        ({"class_names": ["a", "b", "c"]}, "class_names must be a tuple, not list"),
        ({"seed": 0.5}, "seed must be a whole number, not 0.5"),
        ({"method": 3}, "method must be a text, not 3"),
        ({"method": "a\0"}, "method cannot be .*zero character"),
        ({"final_loss": float("inf")}, "final_loss must be a finite number or None, not inf"),
        ({"config": []}, "config must be an object, not \\[\\]"),
        ({"config": {"network": "convnet"}}, "config.'network'. must be an object, not 'convnet'"),
        ({"config": {"merged": {}}}, "config.'merged'. must be a list"),
        ({"config": {"merged": []}}, "config.'merged'. must name the parts"),
        ({"config": {"merged": [3]}}, "config.'merged'..0. must be an object, not 3"),
        ({"config": {"merged": [{"config": {"network": 1}}]}}, "'network'. must be an object, not 1"),
        ({"config": {"extended": []}}, "config.'extended'. must name what"),
        ({"config": {"extended": [{"images": 3}]}}, "'images'. must be an object, not 3"),
        ({"config": {"extended": [{"images": {"a": "b"}}]}}, "'images'..'a'. must be a whole number, not 'b'"),
        ({"config": {"extended": [{"config": []}]}}, "'config'. must be an object"),
        ({"source": {"name": None}}, "source.'name'. must be a text, not None"),
        ({"source": {"options": []}}, "source.'options'. must be an object"),
        ({"source": {"fingerprint": 7}}, "source.'fingerprint'. must be a text"),
        ({"versions": {"torch": 2.11}}, "versions.'torch'. must be a text, not 2.11"),
    ],
)
def test_a_set_that_no_file_can_hold_is_refused_when_it_is_made(change, words):
    with pytest.raises(ConfigError, match=words):
        make_set(**change)


@pytest.mark.parametrize("name", ["images", "labels", "preprocessing", "provenance", "class_names"])
def test_none_in_the_place_of_a_part_is_an_error_of_ours(name):
    with pytest.raises(ConfigError, match=f"{name} must be a .*, not NoneType; give one"):
        replace(make_set(), **{name: None})


def test_refuses_to_write_bad_pixels_and_preprocessing(tmp_path):
    held = make_set(zca=True)
    held.images[0, 0, 0, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    with pytest.raises(
        StoreError, match="not written: images: found 3 of 96 values not finite, expected none; correct"
    ):
        held.save(tmp_path / "set.h5")
    bad = replace(make_set(), preprocessing=replace(make_set().preprocessing, std=torch.tensor([0.0])))
    with pytest.raises(StoreError, match=r"preprocessing/std: found 0\.0, expected values above 0"):
        bad.save(tmp_path / "set.h5")
    bad = replace(make_set(), preprocessing=replace(make_set().preprocessing, mean=torch.zeros(3)))
    with pytest.raises(StoreError, match=r"preprocessing/mean: found shape \(3,\), expected \(C\) with C = 1"):
        bad.save(tmp_path / "set.h5")


def test_undecodable_paths_in_a_config_survive(tmp_path):
    held = make_set(source={"name": "folder", "options": {"data_dir": os.fsdecode(b"/data/\xff")}})
    held.save(tmp_path / "set.h5", keep_paths=True)
    assert store.read(tmp_path / "set.h5").provenance == held.provenance


def test_merged_config_beyond_an_attribute_fits(tmp_path):
    held = make_set(config={"merged": [{"method": "x" * 1000}] * 100})
    held.save(tmp_path / "set.h5")
    assert len(json.dumps(store.read(tmp_path / "set.h5").provenance.config)) > 2**16


@pytest.mark.parametrize("storage", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("factor", [1, 2])
def test_every_form_comes_back_as_it_was(tmp_path, storage, factor):
    held = make_set(factor=factor, storage=storage, final_loss=0.5)
    held.save(tmp_path / "set.h5")
    assert_equal_sets(store.read(tmp_path / "set.h5"), held)
    header = store.read_header(tmp_path / "set.h5")
    assert (header.storage, header.factor, header.image_bytes) == (storage, factor, held.image_bytes)
    assert header.version == (1 if (storage, factor) == ("float32", 1) else 2)
    lazy, decoded = store.open_dataset(tmp_path / "set.h5"), held.decoded()
    assert len(lazy) == len(decoded) == 6 * factor**2
    order = torch.randperm(len(lazy)).tolist()
    assert torch.equal(lazy.gather(order), decoded.images[order])
    assert torch.equal(lazy.labels, decoded.labels)
    assert torch.equal(lazy[-1][0], decoded.images[-1])
    with pytest.raises(IndexError):
        lazy[-len(lazy) - 1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [1, 2])
def test_soft_labels_come_back_as_they_were(tmp_path, kind, factor):
    held = replace(make_set(factor=factor, soft=kind), learned_lr=0.015)
    held.save(tmp_path / "set.h5")
    assert_equal_sets(store.read(tmp_path / "set.h5"), held)
    header = store.read_header(tmp_path / "set.h5")
    assert (header.version, header.soft_labels.kind, header.learned_lr) == (3, kind, 0.015)
    assert header.soft_label_bytes == held.soft_label_bytes == 6 * 3 * 4
    assert held.nbytes == held.image_bytes + 72


def test_a_file_with_soft_labels_is_none_of_an_older_version(tmp_path):
    make_set(soft="logits").save(tmp_path / "set.h5")
    with h5py.File(tmp_path / "set.h5", "r+") as file:
        file.attrs["format_version"] = 2
    with pytest.raises(StoreError, match="found 2, expected 3 for soft labels"):
        store.read(tmp_path / "set.h5")


def test_what_version_1_does_not_have_is_refused_in_its_files(tmp_path):
    make_set(factor=2).save(tmp_path / "set.h5")
    with h5py.File(tmp_path / "set.h5", "r+") as file:
        file.attrs["format_version"] = 1
    with pytest.raises(StoreError, match="found 1, expected 2"):
        store.read(tmp_path / "set.h5")


def test_other_storage_rounds_and_comes_back():
    held = make_set(shape=(3, 4, 4))
    pixels = held.stored_as("uint8")
    assert torch.equal(pixels.images, to_uint8(held.preprocessing.inverse(held.images)))
    assert torch.equal(pixels.stored_as("float32").stored_as("uint8").images, pixels.images)
    with pytest.raises(ConfigError, match="float16"):
        held.stored_as("float8")

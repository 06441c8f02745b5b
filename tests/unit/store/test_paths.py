"""A set's file tells where its images are from itself on, and nothing of the machine's other folders."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from synthetic_sets import make_set

from atom_plugin.store import SyntheticSet, concatenate, open_dataset, read_header
from atom_plugin.store.paths import located, portable, without_folders
from atom_plugin.store.provenance import Provenance


def made_of(folder: Any, **more: Any) -> Provenance:
    return Provenance(
        method="dm", seed=0, source={"name": "folder", "options": {"data_dir": folder, "seed": 1}}, **more
    )


def folder_of(provenance: Provenance) -> Any:
    return provenance.source["options"].get("data_dir")


@pytest.mark.parametrize(
    ("stored", "folder", "expected"),
    [
        ("/home/ann/photos", "/home/ann", "photos"),
        ("/home/ann/photos", "/home/ann/photos", "."),
        ("/home/ann/data/photos", "/home/ann/runs/one", "../../data/photos"),
        ("/data/photos", "/home/ann", None),
        ("/data/photos", "/", None),
        ("already/relative", "/home/ann", "already/relative"),
    ],
)
def test_a_folder_is_told_from_the_file_on_or_not_at_all(stored: str, folder: str, expected: str | None) -> None:
    held = portable(made_of(stored), Path(folder))
    assert folder_of(held) == expected
    assert held.source["options"]["seed"] == 1
    if expected is not None and Path(stored).is_absolute():
        assert folder_of(located(held, Path(folder))) == stored


def test_an_absolute_folder_of_a_file_stays_what_it_is() -> None:
    assert folder_of(located(made_of("/data/photos"), Path("/home/ann"))) == "/data/photos"


@pytest.mark.parametrize("folder", [None, 7, ["/home/ann"]])
def test_what_is_no_folder_is_left_alone(folder: Any) -> None:
    held = made_of(folder)
    for odd in (held, Provenance(method="dm", seed=0, source={"options": {}}), Provenance(method="dm", seed=0)):
        assert portable(odd, Path("/home")) == odd == located(odd, Path("/home"))


@pytest.mark.parametrize("outside", ["merged", "extended"])
def test_parts_of_merged_and_extended_sets_are_told_alike_however_deep(outside: str) -> None:
    inner = made_of("/other/x", config={"merged": [asdict(made_of("/other/y")), {"source": None}]})
    outer = made_of("/other/z", config={outside: [asdict(inner)], "ipc": 1})
    for changed in (portable(outer, Path("/home")), without_folders(outer)):
        assert "/other" not in str(changed)
        assert changed.config["ipc"] == 1 and changed.config[outside][0]["config"]["merged"][1]["source"] is None


def test_a_file_and_its_images_may_move_together(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    source = {"name": "folder", "options": {"data_dir": str(here / "photos")}, "fingerprint": "0"}
    held = make_set(source=source)
    held.save(here / "a.h5")
    assert str(tmp_path).encode() not in (here / "a.h5").read_bytes()
    assert SyntheticSet.load(here / "a.h5").provenance == held.provenance
    assert folder_of(read_header(here / "a.h5").provenance) == "photos"
    merged = concatenate([SyntheticSet.load(here / "a.h5"), held])
    merged.save(tmp_path / "merged.h5")
    assert str(tmp_path).encode() not in (tmp_path / "merged.h5").read_bytes()
    assert folder_of(read_header(tmp_path / "merged.h5").provenance) == "here/photos"
    held.save(here / "kept.h5", keep_paths=True)
    here.rename(there)
    assert folder_of(SyntheticSet.load(there / "a.h5").provenance) == str(there / "photos")
    assert folder_of(open_dataset(there / "a.h5").provenance) == str(there / "photos")
    assert folder_of(SyntheticSet.load(there / "kept.h5").provenance) == str(here / "photos")

"""Renames that never replace, and exchanges, with the system's call and without it."""

from __future__ import annotations

import os

import pytest

from atom_plugin.runtime import renames


@pytest.fixture(params=[True, False])
def supported(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(renames, "renameat2", lambda: None)
    return request.param


@pytest.mark.parametrize("folder", [True, False])
def test_a_taken_name_is_an_error_and_both_stay(tmp_path, supported, folder):
    for name in ("old", "new"):
        if folder:
            (tmp_path / name).mkdir()
        (tmp_path / name / name if folder else tmp_path / name).write_text(name)
    with pytest.raises(FileExistsError):
        renames.rename_new(tmp_path / "old", tmp_path / "new")
    read = (tmp_path / "new" / "new" if folder else tmp_path / "new").read_text()
    assert (read, (tmp_path / "old").exists()) == ("new", True)
    renames.rename_new(tmp_path / "old", tmp_path / "other")
    assert (tmp_path / "other").exists()
    assert not (tmp_path / "old").exists()


def test_a_link_to_nothing_takes_a_name(tmp_path, supported):
    (tmp_path / "old").write_text("old")
    (tmp_path / "new").symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        renames.rename_new(tmp_path / "old", tmp_path / "new")


def test_other_errors_keep_their_kind(tmp_path, supported):
    with pytest.raises(FileNotFoundError):
        renames.rename_new(tmp_path / "absent", tmp_path / "new")


def test_an_exchange_is_whole_or_not_at_all(tmp_path, supported):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    done = renames.exchange(tmp_path / "one", tmp_path / "two")
    assert done or not (supported and os.uname().sysname == "Linux")
    assert [path.name for path in (tmp_path / "one").iterdir()] == (["two"] if done else ["one"])

"""A folder appears complete or not at all, and only what we wrote and nobody changed is replaced."""

from __future__ import annotations

import errno
import os

import pytest

from atom_plugin.errors import StoreError
from atom_plugin.runtime import folders, renames
from atom_plugin.runtime.folders import INDEX, foreign_files, recover, write_folder


def fill(text: str):
    def write(folder):
        (folder / "class").mkdir()
        (folder / "class" / "0.txt").write_text(text)
        (folder / "list.json").write_text(text)

    return write


def contents(folder):
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {INDEX, "class/0.txt", "list.json"}
    assert (folder / "list.json").read_text() == (folder / "class" / "0.txt").read_text()
    return (folder / "list.json").read_text()


@pytest.fixture(params=["exchange", "aside"])
def out(request, tmp_path, monkeypatch):
    """A folder of ours, on a file system that exchanges names, and on one that does not."""
    if request.param == "aside":
        monkeypatch.setattr(renames, "exchange", lambda one, other: False)
    write_folder(tmp_path / "out", fill("old"), force=False)
    return tmp_path / "out"


def test_force_replaces_what_we_wrote_whole(out):
    with pytest.raises(StoreError, match="already exists and is kept"):
        write_folder(out, fill("new"), force=False)
    assert contents(out) == "old"
    write_folder(out, fill("new"), force=True)
    assert contents(out) == "new"
    assert foreign_files(out) == []
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_file_that_is_gone_is_no_reason_to_keep_the_rest(out):
    (out / "class" / "0.txt").unlink()
    write_folder(out, fill("new"), force=True)
    assert contents(out) == "new"


def add(name):
    def change(folder):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
        return name

    return change


def changed(folder):
    (folder / "class" / "0.txt").write_text("odd")  # as long as before
    return "class/0.txt"


def linked(folder):
    (folder / "elsewhere").symlink_to(folder.parent)
    return "elsewhere"


def replaced_by_a_link(folder):
    (folder.parent / "same.txt").write_text((folder / "list.json").read_text())
    (folder / "list.json").unlink()
    (folder / "list.json").symlink_to(folder.parent / "same.txt")
    return "list.json"


def emptied(folder):
    (folder / "mine").mkdir()
    return "mine"


def without_index(folder):
    (folder / INDEX).unlink()
    return "class"


def forged_index(folder):
    (folder / INDEX).write_text('{"files": 7}')
    return INDEX


CHANGES = [
    *(add(name) for name in ("notes.txt", "class/1.txt", ".hidden", "b/c", "classes.json")),
    *(changed, linked, replaced_by_a_link, emptied, without_index, forged_index),
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_somebody_added_or_changed_is_named_and_kept(out, change):
    name = change(out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(StoreError, match="is not replaced; move it elsewhere, or choose another name") as caught:
        write_folder(out, fill("new"), force=True)
    assert name in str(caught.value)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_what_appears_while_the_new_one_is_made_is_kept(out):
    def fill_slowly(folder):
        fill("new")(folder)
        (out / "mine.txt").write_text("mine")

    with pytest.raises(StoreError, match=r"contains mine\.txt, which was not written"):
        write_folder(out, fill_slowly, force=True)
    assert (out / "mine.txt").read_text() == "mine"
    assert (out / "list.json").read_text() == "old"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("supported", [True, False])
def test_a_folder_that_appears_meanwhile_is_kept(tmp_path, monkeypatch, force, supported):
    if not supported:
        monkeypatch.setattr(renames, "renameat2", lambda: None)

    def fill_slowly(folder):
        fill("new")(folder)
        add("theirs.txt")(tmp_path / "out")

    def theirs():
        (tmp_path / "out").mkdir()

    def fill_beside(folder):
        theirs()
        fill_slowly(folder)

    with pytest.raises(StoreError, match=r"was made by another process meanwhile|which was not written by an export"):
        write_folder(tmp_path / "out", fill_beside, force=force)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["theirs.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_and_no_file_or_link_is_replaced(tmp_path):
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "empty", fill("new"), force=True)
    assert contents(tmp_path / "empty") == "new"
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for name in ("file", "link"):
        with pytest.raises(StoreError, match="is not a folder that an export wrote"):
            write_folder(tmp_path / name, fill("new"), force=True)


def test_failure_leaves_the_old_folder_alone(out):
    def fail(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreError, match="no space"):
        write_folder(out, fail, force=True)
    assert contents(out) == "old"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("killed_after", [1, 2])
def test_a_kill_between_the_two_renames_is_mended_by_the_next_write(tmp_path, monkeypatch, killed_after):
    """Where names cannot be exchanged: the old folder aside, the new one in, the old one away."""
    monkeypatch.setattr(renames, "exchange", lambda one, other: False)
    write_folder(tmp_path / "out", fill("old"), force=False)
    rename, calls = os.rename, []

    class Killed(BaseException):
        pass

    def stop(old, new):
        if len(calls) == killed_after:
            raise Killed
        calls.append(new)
        rename(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(folders.Path, "rename", stop)
        with pytest.raises(Killed):
            write_folder(tmp_path / "out", fill("new"), force=True)
    assert (tmp_path / "out").exists() == (killed_after == 2)
    assert len(list(tmp_path.glob(".*.old"))) == 1
    recover(tmp_path / "out", foreign_files)
    assert contents(tmp_path / "out") == ("old" if killed_after == 1 else "new")
    write_folder(tmp_path / "out", fill("next"), force=True)
    assert contents(tmp_path / "out") == "next"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]

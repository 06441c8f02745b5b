"""A file appears complete or not at all, and an older one stays until then."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time

import pytest
from synthetic_sets import assert_equal_sets, make_set

from atom_plugin import store
from atom_plugin.errors import StoreError
from atom_plugin.runtime import files


def refused(path, **options) -> str:
    with pytest.raises(StoreError) as raised:
        store.write(make_set(pixels=2), path, **options)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"{path}: ")
    return str(raised.value)


def test_an_existing_file_needs_force(tmp_path):
    path = tmp_path / "set.h5"
    old, new = make_set(pixels=1), make_set(pixels=2)
    store.write(old, path)
    assert "already exists and is kept; choose another name, or allow replacing it with --force" in refused(path)
    assert_equal_sets(store.read(path), old)
    store.write(new, path, force=True)
    assert_equal_sets(store.read(path), new)
    assert [item.name for item in tmp_path.iterdir()] == ["set.h5"]


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_file_is_never_replaced(tmp_path, force):
    assert "is a folder, expected a file name" in refused(tmp_path, force=force)
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", force=force)
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "null").symlink_to("/dev/null")
    refused(tmp_path / "null", force=force)
    assert (tmp_path / "null").is_symlink()
    if not force:
        (tmp_path / "dangling").symlink_to("nowhere")
        assert "already exists" in refused(tmp_path / "dangling")


def test_places_that_cannot_be_written(tmp_path):
    assert f"there is no folder {tmp_path / 'absent'}; create it first" in refused(tmp_path / "absent" / "set.h5")
    (tmp_path / "file").touch()
    assert "is not a folder; choose another name" in refused(tmp_path / "file" / "set.h5")
    assert "File name too long" in refused(tmp_path / ("x" * 300))
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    assert "no permission to write" in refused(tmp_path / "set.h5")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), r"no space for \d+ bytes \(No space left on device\); free"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), r"no space for \d+ bytes \(Disk quota exceeded\)"),
        (PermissionError(errno.EACCES, "Permission denied"), "no permission to write in"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only file system; choose another name or folder"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
    ],
)
@pytest.mark.parametrize("force", [False, True])
def test_failures_leave_the_folder_as_it_was(tmp_path, monkeypatch, error, words, force):
    path = tmp_path / "set.h5"
    if force:
        store.write(make_set(pixels=1), path)

    def fail(*arguments):
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match=f"cannot be written: {words}"):
        store.write(make_set(pixels=2), path, force=force)
    assert [item.name for item in tmp_path.iterdir()] == (["set.h5"] if force else [])
    if force:
        assert_equal_sets(store.read(path), make_set(pixels=1))


def test_interrupt_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.write(make_set(), tmp_path / "set.h5")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_in_earnest(tmp_path):
    path = tmp_path / "set.h5"
    store.write(make_set(), path)
    large = make_set(shape=(3, 32, 32), ipc=20)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(StoreError, match=r"set.h5: cannot be written: no space for \d+ bytes \(File too large\)"):
            store.write(large, path, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_equal_sets(store.read(path), make_set())
    assert [item.name for item in tmp_path.iterdir()] == ["set.h5"]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "set.h5"
    sync = os.fsync

    def appear(descriptor):
        sync(descriptor)
        path.write_text("somebody else's")

    monkeypatch.setattr(os, "fsync", appear)
    assert "already exists" in refused(path)
    assert path.read_text() == "somebody else's"
    assert [item.name for item in tmp_path.iterdir()] == ["set.h5"]


@pytest.mark.parametrize("error", [OSError(errno.EPERM, "Operation not permitted"), NotImplementedError()])
def test_where_there_are_no_hard_links(tmp_path, monkeypatch, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(os, "link", fail)
    store.write(make_set(), tmp_path / "set.h5")
    assert_equal_sets(store.read(tmp_path / "set.h5"), make_set())
    assert "already exists" in refused(tmp_path / "set.h5")
    assert [item.name for item in tmp_path.iterdir()] == ["set.h5"]


def test_the_file_has_the_usual_permissions(tmp_path):
    store.write(make_set(), tmp_path / "set.h5")
    (tmp_path / "usual").touch()
    assert (tmp_path / "set.h5").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_the_longest_name_fits(tmp_path):
    path = tmp_path / ("x" * 252 + ".h5")
    store.write(make_set(), path)
    assert_equal_sets(store.read(path), make_set())


def test_killed_while_writing(tmp_path):
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from atom_plugin.runtime.files import write_bytes\n"
        "while True:\n"
        "    for letter in b'ab': write_bytes(Path(sys.argv[1]), bytes([letter]) * 5_000_000, force=True)"
    )
    path = tmp_path / "file"
    for turn in range(10):
        with subprocess.Popen([sys.executable, "-c", script, str(path)]) as process:
            while not path.exists():
                assert process.poll() is None
                time.sleep(0.005)
            time.sleep(0.013 * turn)
            process.send_signal(signal.SIGKILL)
        # Whatever the moment, the name holds one whole file.
        content = path.read_bytes()
        assert content in (b"a" * 5_000_000, b"b" * 5_000_000)
        path.unlink()


def test_memory_stays_near_the_size_of_the_set(tmp_path):
    held = make_set(shape=(3, 128, 128), ipc=100)  # 59 MB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    store.write(held, tmp_path / "set.h5")
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < 3 * held.images.numel() * 4


def test_refuse_existing_answers_before_the_work(tmp_path):
    files.refuse_existing(tmp_path / "set.h5", force=False)
    (tmp_path / "set.h5").touch()
    files.refuse_existing(tmp_path / "set.h5", force=True)
    with pytest.raises(StoreError):
        files.refuse_existing(tmp_path / "set.h5", force=False)


def test_what_killed_processes_left_goes_after_an_hour(tmp_path):
    file, folder, young, foreign = (tmp_path / f".{name * 16}.tmp" for name in "0123")
    file.touch()
    (folder / "class").mkdir(parents=True)
    (folder / "class" / "0.png").touch()
    young.mkdir()
    (young / "0.png").touch()
    foreign = foreign.with_name(".mine.tmp")
    foreign.touch()
    old = time.time() - 3700
    for path in (file, folder / "class" / "0.png", folder / "class", folder, young, foreign):
        os.utime(path, (old, old))
    files.write_bytes(tmp_path / "a", b"", force=False)
    assert {path.name for path in tmp_path.iterdir()} == {"a", young.name, foreign.name}, "young holds a new file"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_another_user_left_stays(tmp_path):
    path = tmp_path / f".{'0' * 16}.tmp"
    path.touch()
    os.utime(path, (0, 0))
    os.chown(path, 65534, 65534)
    files.remove_abandoned(tmp_path)
    assert path.exists()

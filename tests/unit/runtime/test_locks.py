"""A name belongs to one process at a time, and to nobody once that process is gone."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from atom_plugin.errors import StoreError
from atom_plugin.runtime.locks import lock_file, locked, remove_stale_locks

HOLD = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from atom_plugin.runtime.locks import locked\n"
    "with locked(Path(sys.argv[1]), 'atom-cli distill'):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(60)"
)


@pytest.fixture
def holder(tmp_path):
    """Another process that has the name."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "a.h5")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_the_other_process_is_named(tmp_path, holder):
    began = time.monotonic()
    with (
        pytest.raises(StoreError, match="wait until it ends, or choose another name") as caught,
        locked(tmp_path / "a.h5", "x"),
    ):
        pass
    assert time.monotonic() - began < 1
    assert f"a.h5: process {holder.pid} on {socket.gethostname()} " in str(caught.value)
    assert "(atom-cli distill)" in str(caught.value)
    with locked(tmp_path / "b.h5", "x"):
        pass


def test_the_name_of_a_killed_process_is_taken_over(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert lock_file(tmp_path / "a.h5").exists()
    with locked(tmp_path / "a.h5", "x"):
        assert json.loads(lock_file(tmp_path / "a.h5").read_text())["process"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_only_stale_locks_are_removed(tmp_path, holder):
    lock_file(tmp_path / "b.h5").write_text("{}")
    (tmp_path / ".mine.lock").touch()
    remove_stale_locks(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([lock_file(tmp_path / "a.h5"), tmp_path / ".mine.lock"])
    remove_stale_locks(tmp_path / "absent")


def test_the_file_goes_whatever_ends_the_work(tmp_path):
    for error in (KeyboardInterrupt, SystemExit, ValueError):
        with pytest.raises(error), locked(tmp_path / "a.h5", "x"):
            assert lock_file(tmp_path / "a.h5").exists()
            raise error
        assert list(tmp_path.iterdir()) == []


def test_a_forked_child_neither_holds_nor_releases(tmp_path):
    with locked(tmp_path / "a.h5", "x"):
        child = os.fork()
        if not child:
            time.sleep(30)
            os._exit(0)
        assert lock_file(tmp_path / "a.h5").exists()
    try:
        with locked(tmp_path / "a.h5", "x"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize(
    ("about", "taken"),
    [
        ({}, True),
        ({"process": os.getpid(), "host": socket.gethostname()}, False),
        ({"process": 2**22 + 1, "host": socket.gethostname()}, True),
        ({"process": 1, "host": "another"}, False),
    ],
)
def test_without_locks_of_the_system_the_process_number_decides(tmp_path, monkeypatch, about, taken):
    def fail(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    lock_file(tmp_path / "a.h5").write_text(json.dumps(about))
    if taken:
        with locked(tmp_path / "a.h5", "x"):
            assert json.loads(lock_file(tmp_path / "a.h5").read_text())["process"] == os.getpid()
    else:
        with (
            pytest.raises(StoreError, match=f"process {about['process']} on {about['host']}"),
            locked(tmp_path / "a.h5", "x"),
        ):
            pass


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with (
        pytest.raises(StoreError, match="cannot be written: there is no folder"),
        locked(tmp_path / "no" / "a.h5", "x"),
    ):
        pass

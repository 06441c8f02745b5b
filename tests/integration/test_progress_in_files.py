"""What commands say of their progress where stderr is a file: lines, and no carriage return."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

START = "import sys; from atom_plugin.cli.main import main; sys.exit(main())"
PRECISION = ("--precision", "float32", "--device", "cpu")
COMMANDS = {
    "distill": ("--ipc", "1", "--iterations", "3", "--width", "8", "--real-batch", "2", *PRECISION, "-o", "new.h5"),
    "consume evaluate": ("set.h5", "--epochs", "2", "--repeats", "2", *PRECISION),
    "consume train": ("set.h5", "--epochs", "2", *PRECISION, "-o", "net.safetensors"),
}
COUNTS = {
    "distill": "3 of 3 steps",
    "consume evaluate": "4 of 4 epochs",
    "consume train": "2 of 2 epochs",
}


def told(folder: Path, *arguments: str) -> bytes:
    """What the command, which must succeed, writes to a file in the place of stderr."""
    with (folder / "stderr.txt").open("wb") as file:
        done = subprocess.run(
            [sys.executable, "-c", START, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=file, check=False
        )
    text = (folder / "stderr.txt").read_bytes()
    assert done.returncode == 0, text
    return text


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    told(folder, "select", "--ipc", "1", *PRECISION[:2], "-o", "set.h5")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_progress_is_lines(made: Path, command: str) -> None:
    text = told(made, *command.split(), *COMMANDS[command])
    assert b"\r" not in text and b"\x1b" not in text and text.endswith(b"\n")
    (last,) = [line for line in text.decode().splitlines() if " of " in line and re.search(r", \d+ s", line)]
    assert COUNTS[command] in last

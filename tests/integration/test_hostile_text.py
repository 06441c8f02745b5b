"""Names in files from somebody else say what they like, but nothing to the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic_sets import make_set

from atom_plugin.cli.main import main

EVIL = "\x1b[2J\x1b]0;owned\x07\r\u202e"
COMMANDS = [
    ("store", "info", "evil.h5"),
    ("store", "info", "evil.h5", "--json"),
    ("store", "verify", "evil.h5"),
    ("store", "show", "evil.h5"),
    ("store", "show", "evil.h5", "-o", "shown.svg"),
    ("store", "show", "evil.h5", "--embedding", "pca", "--network-state", "random", "--precision", "float32"),
    ("store", "merge", "evil.h5", "plain.h5", "-o", "merged.h5"),
    ("store", "subset", "evil.h5", "--classes", "nothing", "-o", "part.h5"),
    ("store", "export", "evil.h5", "--format", "folder", "-o", "folder"),
    ("store", "export", "evil.h5", "--format", "huggingface", "-o", "hub"),
    ("store", "import", "evil.npz", "--format", "npz", "--classes", "a,b", "-o", "again.h5"),
    ("consume", "evaluate", "evil.h5", "--precision", "float32"),
    ("consume", "train", "evil.h5", "--epochs", "1", "--precision", "float32", "-o", "net.safetensors"),
    ("report", "evil.h5", "--embedding", "none", "-o", "page.html"),
    ("consume", "evaluate", "evil.h5", "--dataset", "digits", "--precision", "float32"),
    ("consume", "score", "evil.h5", "--precision", "float32"),
    ("consume", "audit", "evil.h5", "--precision", "float32"),
    ("consume", "replay", "--memory", "evil.h5", "--ipc", "1", "--precision", "float32"),
    ("select", "--dataset", "folder", "--data-dir", "photos", "--ipc", "9", "--precision", "float32"),
]


@pytest.fixture
def hostile(inside: Path) -> Path:
    """A set whose every name is hostile, a plain one, an export, and a folder of images with such a class."""
    from PIL import Image

    names = (f"cat{EVIL}", f"dog\nnext{EVIL}", "c")
    source = {"name": f"mnist{EVIL}", "options": {}, "fingerprint": EVIL}
    made = {"source": source, "versions": {f"torch{EVIL}": EVIL}, "config": {EVIL: EVIL}}
    make_set(method=f"atom{EVIL}", class_names=names, shape=(1, 8, 8), **made).save("evil.h5")
    make_set(shape=(1, 8, 8)).save("plain.h5")
    assert main(["store", "export", "evil.h5", "--format", "npz", "-o", "evil.npz"]) == 0
    for name in (f"a{EVIL}", "b"):
        (inside / "photos" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (8, 8), (9 * number, 9, 9)).save(inside / "photos" / name / f"{number}.png")
    return inside


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_prints_it_raw(hostile: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]) -> None:
    capsys.readouterr()
    code = main(list(command))
    out, err = capsys.readouterr()
    assert "internal error" not in err
    assert all(character.isprintable() or character == "\n" for character in out + err), (out, err)
    assert "\nnext" not in out + err
    if command[:2] == ("store", "info") and "--json" in command:
        assert json.loads(out)["class_names"][0] == f"cat{EVIL}"
    elif command[1] in ("info", "evaluate", "score", "audit"):
        assert r"\x1b[2J" in out + err, (code, out, err)

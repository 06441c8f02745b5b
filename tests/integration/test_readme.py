"""What the README shows, runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from commands import run
from PIL import Image

from atom_plugin.cli.main import main
from atom_plugin.store.synthetic_set import SyntheticSet

# What its commands take here to end soon; the last of an option given twice counts.
TINIEST = {"distill": "--no-zca", "consume evaluate": "--models convnet"}
TINY = {
    "distill": "--iterations 2 --width 8 --real-batch 2 --quiet",
    "select": "--quiet",
    "pool make": "--networks 1 --epochs 1 --width 8 --quiet",
    "consume evaluate": "--epochs 1 --repeats 1 --quiet",
    "consume train": "--epochs 1 --quiet",
    "consume predict": "--quiet",
    "consume search": "--epochs 1 --pick width=32,depth=1 --sample 2 --reference best:1 --quiet",
    "consume audit": "--epochs 1 --networks 2 --quiet",
    "consume replay": "--finetune-steps 1 --iterations 1 --epochs 1 --orders 1 --steps 2 --width 8 --real-batch 2 --quiet",
    "store show": "",
    "report": "--quiet",
    "store export": "",
}
README = Path(__file__).parents[2] / "README.md"


@pytest.mark.auto_precision("float32")
def test_the_python_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.M | re.S)
    exec(block, {})
    assert SyntheticSet.load("digits.h5").images.shape == (10, 1, 8, 8)


def test_its_links_and_pictures_exist():
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    assert len(links) > 6
    assert [link for link in links if "://" not in link and not (README.parent / link).exists()] == []


def commands() -> list[list[str]]:
    """The words of the commands in the README's console blocks, in order.

    But for those that install, and for the import of a result that others made of a set to be downloaded.
    """
    blocks = re.findall(r"^```console\n(.*?)^```$", README.read_text(), re.M | re.S)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    found = [shlex.split(line, comments=True) for line in lines]
    return [words[1:] for words in found if words[0] == "atom-cli" and words[1:3] != ["store", "import"]]


@pytest.fixture
def photos(inside):
    """Photos as the README has them, and a folder to work in."""
    noise = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for kind in ("cat", "dog", "owl"):
            folder = inside / "photos" / split / kind
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(noise.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return inside


@pytest.mark.auto_precision("float32")
@pytest.mark.parametrize("more", [TINIEST, pytest.param({}, marks=pytest.mark.slow)], ids=["tiniest", "tiny"])
def test_its_commands_run_one_after_another_in_one_folder(photos, capsys, more):
    ran = commands()
    assert len(ran) >= 9
    for words in ran:
        verb = " ".join(words[:2] if words[0] in ("store", "consume", "pool") else words[:1])
        if main([*words, *TINY[verb].split(), *more.get(verb, "").split()]) != 0:
            raise AssertionError(f"{shlex.join(words)}: {capsys.readouterr().err}")
    capsys.readouterr()
    names = {path.name for path in photos.iterdir()}
    assert names >= {
        *("digits-atom-ipc10.h5", "digits-atom-ipc10.png", "digits.npz", "digits-random-ipc10.h5"),
        *("photos.h5", "photos.log.jsonl", "photos.jsonl", "photos.png", "photos.tsne.png", "photos.pool", "best.h5"),
        *("digits-replay-ipc10.jsonl", "digits-replay-ipc10.png", "digits-replay-ipc10.memory"),
    }


@pytest.mark.auto_precision("float32")
@pytest.mark.slow
def test_its_first_block_runs_word_for_word(inside, capsys):
    for words in commands()[:4]:
        run(capsys, *words, *(() if words[0] == "store" else ("--quiet",)))
    assert (inside / "digits-atom-ipc10.h5").exists()

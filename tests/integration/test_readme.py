"""What the README shows, runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from commands import run
from shown_commands import commands, run_shown

from atom_plugin.store.synthetic_set import SyntheticSet

TINIEST = {"distill": "--no-zca", "consume evaluate": "--models convnet"}
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


@pytest.mark.auto_precision("float32")
@pytest.mark.parametrize("more", [TINIEST, pytest.param({}, marks=pytest.mark.slow)], ids=["tiniest", "tiny"])
def test_its_commands_run_one_after_another_in_one_folder(photos, capsys, more):
    ran = commands(README.read_text())
    assert len(ran) >= 9
    for words in ran:
        if run_shown(words, more) != 0:
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
    for words in commands(README.read_text())[:4]:
        run(capsys, *words, *(() if words[0] == "store" else ("--quiet",)))
    assert (inside / "digits-atom-ipc10.h5").exists()

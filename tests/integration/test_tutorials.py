"""What the tutorials and the pages on extending show, runs, page by page and block by block."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path

import pytest
from shown_commands import blocks, commands, run_shown

from atom_plugin.datasets import SOURCES
from atom_plugin.distillation.set_config import METHODS
from atom_plugin.matchers import MATCHERS
from atom_plugin.store.formats import FORMATS

DOCS = Path(__file__).parents[2] / "docs"
MADE = {
    "quick-start": ["digits-atom-ipc10.h5", "digits-atom-ipc10.log.jsonl", "digits-atom-ipc10.png"],
    "own-photos": ["photos.h5", "photos.png", "photos-herding.h5", "photos.jsonl", "photos.safetensors"],
    "compare-matchers": ["atom-0.h5", "compare.jsonl", "compare.csv", "compare.png", "test.jsonl"],
    "replay": ["digits-replay.jsonl", "digits-replay.png", "digits-replay.memory"],
    "search": ["search.jsonl", "search.csv", "search.png"],
}


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page registers is forgotten after its test."""
    for registry in (SOURCES, MATCHERS, FORMATS):
        monkeypatch.setattr(registry, "_local", dict(registry._local))


def run_page(page: Path, capsys: pytest.CaptureFixture[str], more: Mapping[str, str] | None = None) -> None:
    """The page's blocks, one after another, in the present folder; what Python defines, later blocks see.

    ``more`` are further options of commands by name, as :func:`run_shown` takes them.
    """
    names: dict[str, object] = {"__name__": "__main__"}
    for language, block in blocks(page.read_text(encoding="utf-8")):
        if language == "python":
            exec(compile(block, page.name, "exec"), names)
            continue
        for words in commands(f"```console\n{block}```"):
            if run_shown(words, more) != 0:
                raise AssertionError(f"{page.name}: {shlex.join(words)}: {capsys.readouterr().err}")


def test_every_tutorial_is_run_here():
    assert {page.stem for page in (DOCS / "tutorials").glob("*.md")} == set(MADE)


@pytest.mark.auto_precision("float32")
@pytest.mark.parametrize("name", MADE)
def test_a_tutorial_runs_and_makes_what_it_says(name, photos, capsys):
    page = DOCS / "tutorials" / f"{name}.md"
    run_page(page, capsys)
    assert [file for file in MADE[name] if not (photos / file).exists()] == []
    text = page.read_text(encoding="utf-8")
    assert [file for file in MADE[name] if Path(file).stem not in text] == []


@pytest.mark.auto_precision("float32")
def test_every_method_of_the_page_on_rivals_runs(inside, capsys):
    page = DOCS / "rivals.md"
    run_page(page, capsys, {"pool make": "--epochs 2"})  # two, for an expert of mtt
    made = {path.stem for path in inside.glob("*.h5")}
    shipped = {each.name for each in distribution("atom-plugin").entry_points if each.group == "atom_plugin.matchers"}
    assert made == {*METHODS, *shipped} - {"atom-channel", "feature", "mmd-pixel"}
    assert [name for name in made if f"`{name}`" not in page.read_text(encoding="utf-8") and name not in METHODS] == []


@pytest.mark.auto_precision("float32")
@pytest.mark.parametrize("page", sorted((DOCS / "extend").glob("*.md")), ids=lambda page: page.stem)
def test_a_page_on_extending_runs(page, inside, registries, capsys):
    assert blocks(page.read_text(encoding="utf-8"))
    run_page(page, capsys)

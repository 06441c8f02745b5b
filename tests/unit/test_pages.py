"""What the pages name is there: modules and their members, files, and pages in the site's navigation."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
NAMED = re.compile(r"(?<![\w/.-])atom_plugin(?:\.\w+)+")
FILES = re.compile(r"`(atom_plugin/[\w/]+\.py)`")
GROUPS = {"atom_plugin.sources", "atom_plugin.formats", "atom_plugin.trackers"}  # of entry points


def is_there(name: str) -> bool:
    """Whether a module or a member of one has that dotted name; a module that needs what is not installed counts."""
    held, path = importlib.import_module("atom_plugin"), "atom_plugin"
    for part in name.split(".")[1:]:
        path = f"{path}.{part}"
        try:
            held = importlib.import_module(path)
        except ImportError as error:
            if not (error.name and path.startswith(error.name)):
                return True
            if not hasattr(held, part):
                return False
            held = getattr(held, part)
    return True


def test_a_name_that_is_not_there_is_told():
    assert is_there("atom_plugin.store.synthetic_set.SyntheticSet.load")
    assert not is_there("atom_plugin.distillation.engine.comparison")
    assert not is_there("atom_plugin.store.SyntheticSet.lod")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_dotted_names_and_files_exist(page):
    text = page.read_text(encoding="utf-8")
    assert [name for name in sorted(set(NAMED.findall(text)) - GROUPS) if not is_there(name)] == []
    assert [name for name in FILES.findall(text) if not (ROOT / name).is_file()] == []


def test_the_navigation_and_the_pages_are_the_same():
    listed = re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    made = {"index.md", "contributing.md", "changelog.md"}  # of files beside docs/
    there = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert len(listed) == len(set(listed))
    assert set(listed) == there | made

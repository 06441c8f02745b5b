"""What the README shows, runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from atom_plugin.store.synthetic_set import SyntheticSet

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

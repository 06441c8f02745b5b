"""Which font draws a name, and what is said where none can."""

from __future__ import annotations

import shutil
from pathlib import Path

import matplotlib
import pytest
import torch

from atom_plugin.store import fonts
from atom_plugin.store.pictures import grid, legible

TTF = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
CHINESE = "\u732b"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The fonts beside DejaVu Sans are those of this folder."""
    folder = tmp_path / "fonts"
    folder.mkdir()
    monkeypatch.setattr(fonts, "_installed", lambda: tuple(sorted(folder.iterdir())))
    fonts.font_with.cache_clear()
    yield folder
    fonts.font_with.cache_clear()


def test_dejavu_comes_first_and_others_where_it_lacks_a_character(installed):
    # U+212C, a script capital: in STIX, which matplotlib carries too, and not in DejaVu Sans' like this folder's.
    shutil.copy(TTF / "STIXGeneral.ttf", installed / "b.ttf")
    (installed / "a.ttf").write_bytes(b"no font")
    only_stix = next(
        chr(code) for code in sorted(fonts._characters(installed / "b.ttf") - fonts._characters(TTF / "DejaVuSans.ttf"))
    )
    assert fonts.font_with("cat \u017c\u00f3\u0142w") == TTF / "DejaVuSans.ttf"
    assert fonts.font_with(f"a{only_stix}") == installed / "b.ttf"
    assert fonts.font_with(f"a{only_stix}{CHINESE}") is None
    assert legible(f"a{only_stix}", instead="class 0") == f"a{only_stix}"


def test_a_name_that_no_font_has_is_told(installed, tmp_path, caplog):
    grid(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), (CHINESE, "dog"), tmp_path / "a.png")
    assert "1 name(s)" in caplog.text and CHINESE in caplog.text and "install a font" in caplog.text
    caplog.clear()
    grid(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), ("cat", "dog"), tmp_path / "b.png")
    assert not caplog.text


def test_a_font_of_boxes_counts_for_nothing():
    assert all("LastResort" not in path.name for path in fonts._installed())

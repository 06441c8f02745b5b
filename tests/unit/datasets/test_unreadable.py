"""What is said of image files that cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from image_bytes import tiff
from PIL import Image

from atom_plugin.datasets.pixels import decode
from atom_plugin.datasets.unreadable import captured_stderr, why_unreadable


def reason(path: Path) -> str:
    with pytest.raises(Exception) as caught:
        decode(path)
    return why_unreadable(str(path), caught.value)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({277: 7}, ("7 band(s) of 8 bits", "unsigned")),
        ({277: 1, 258: 64, 339: 3}, ("1 band(s) of 64 bits", "floating-point")),
        ({277: 1, 262: 9999}, ("photometric 9999",)),
    ],
)
def test_a_tiff_of_another_kind_is_not_called_damaged(
    tmp_path: Path, tags: dict[int, int], said: tuple[str, ...]
) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff({256: 2, 257: 2, 258: 8, 259: 1, 262: 1, 278: 2} | tags, bytes(64)))
    found = reason(path)
    assert all(part in found for part in (*said, "convert it to PNG")) and "damaged" not in found


def test_a_tiff_cut_before_its_directory_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff({256: 2, 257: 2, 258: 8, 259: 1, 262: 1, 277: 1, 278: 2}, bytes(64))[:40])
    assert "damaged" in reason(path)


def test_empty_other_and_unknown_files(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "junk.png").write_bytes(b"nothing of the kind")
    Image.new("RGB", (4, 4)).save(tmp_path / "page.png", format="EPS")
    assert reason(tmp_path / "empty.png") == "is empty"
    assert "b'nothing " in reason(tmp_path / "junk.png")
    assert "of kind EPS" in reason(tmp_path / "page.png") and "convert" in reason(tmp_path / "page.png")


def test_what_a_library_writes_to_stderr_is_caught(capfd: pytest.CaptureFixture[str]) -> None:
    with captured_stderr(True) as said:
        os.write(2, b"TIFFReadDirectory: Warning, odd.\n\n")
    with captured_stderr(False) as let_through:
        os.write(2, b"seen\n")
    assert said == ["TIFFReadDirectory: Warning, odd."] and not let_through
    assert capfd.readouterr().err == "seen\n"

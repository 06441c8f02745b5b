"""Pictures are what the ending of their name says, the same bytes each time, and known again as ours."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.runtime.picture_files import ENDINGS, is_picture, picture_format, write_figure, write_image

STARTS = {"png": b"\x89PNG\r\n", "jpeg": b"\xff\xd8\xff", "svg": b"<?xml", "pdf": b"%PDF-1"}
NAMES = [f"a{ending}" for ending in ENDINGS] + ["a.PDF", "a.JPG"]


def figure() -> Figure:
    drawn = Figure()
    drawn.subplots().plot([1, 3, 2])
    return drawn


def write(kind: str, path: Path, *, force: bool = False) -> None:
    """A figure, or an image of 30 x 20 red pixels."""
    if kind == "figure":
        write_figure(figure(), path, force=force)
    else:
        write_image(Image.new("RGB", (30, 20), (200, 30, 30)), path, force=force)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["figure", "image"])
def test_the_ending_decides_what_is_written(tmp_path: Path, name: str, kind: str) -> None:
    paths = [tmp_path / name, tmp_path / f"again-{name}"]
    for path in paths:
        write(kind, path)
    first, second = (path.read_bytes() for path in paths)
    assert first.startswith(STARTS[picture_format(paths[0])])
    assert first == second
    assert is_picture(paths[0])


def test_an_image_keeps_its_size_and_colours(tmp_path: Path) -> None:
    write("image", tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as found:
        assert found.size == (30, 20)
        low, high = found.getextrema()[0]  # type: ignore[misc]  # of the red channel
        assert abs(low - 200) < 6 and abs(high - 200) < 6
    write("image", tmp_path / "a.svg")
    assert b'width="21.6pt" height="14.4pt"' in (tmp_path / "a.svg").read_bytes()


@pytest.mark.parametrize("name", ["a.gif", "a.tiff", "a.csv", "a", "a.png.gz"])
@pytest.mark.parametrize("kind", ["figure", "image"])
def test_another_ending_is_refused_with_those_there_are(tmp_path: Path, name: str, kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}: .*expected .png, .jpg, .jpeg, .svg, .pdf"):
        write(kind, tmp_path / name, force=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_other_pictures_are_not_taken_for_ours(tmp_path: Path, name: str) -> None:
    figure().savefig(tmp_path / name, format=picture_format(Path(name)))
    assert not is_picture(tmp_path / name)
    with pytest.raises(StoreError, match="already exists"):
        write("image", tmp_path / name)

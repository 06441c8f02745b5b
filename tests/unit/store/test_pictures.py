from __future__ import annotations

import sys

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from synthetic_sets import make_set

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.runtime.picture_files import is_picture
from atom_plugin.store.pictures import grid, loss_curve, running_median


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).copy()


def holds(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    """How many pixels have this very colour."""
    return int((picture == np.array(colour)).all(-1).sum())


def flat(*colours: tuple[float, ...], side: int = 8) -> torch.Tensor:
    """One even image per colour."""
    return torch.tensor(colours).view(len(colours), -1, 1, 1).expand(-1, -1, side, side)


def test_grid_shows_true_colours_enlarged(tmp_path):
    images = flat((1.0, 0.0, 0.0), (0.0, 0.2, 1.0))
    grid(images, torch.tensor([0, 1]), ("red", "blue"), tmp_path / "a.png")
    picture = pixels(tmp_path / "a.png")
    assert holds(picture, (255, 0, 0)) == holds(picture, (0, 51, 255)) == 64 * 64


def test_grid_is_enlarged_to_the_nearest_pixel(tmp_path):
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 3, 5] = 128 / 255
    grid(image, torch.tensor([0]), ("x",), tmp_path / "a.png")
    picture = pixels(tmp_path / "a.png")
    assert holds(picture, (128, 128, 128)) == 8 * 8
    assert holds(picture, (0, 0, 0)) == 63 * 8 * 8


def test_grid_clamps_and_averages_odd_channels(tmp_path):
    grid(flat((1.7, -0.3, 0.4)), torch.tensor([0]), ("x",), tmp_path / "a.png")
    assert holds(pixels(tmp_path / "a.png"), (255, 0, 102)) == 64 * 64
    grid(flat((0.2, 0.6)), torch.tensor([0]), ("x",), tmp_path / "b.png")
    assert holds(pixels(tmp_path / "b.png"), (102, 102, 102)) == 64 * 64


def test_grid_of_a_set_undoes_the_preprocessing(tmp_path):
    held = make_set(zca=True, shape=(3, 4, 4))
    grid(held, held.labels, held.class_names, tmp_path / "a.png")
    grid(held.true_colour(), held.labels, held.class_names, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_grid_has_a_row_per_class_in_order_whatever_the_labels(tmp_path):
    images = flat((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0))
    grid(images, torch.tensor([2, 0, 2, 0]), ("a", "none", "c"), tmp_path / "a.png", per_class=1)
    picture = pixels(tmp_path / "a.png")
    assert [holds(picture, colour) for colour in ((255, 0, 0), (0, 0, 255), (0, 255, 0))] == [4096, 4096, 0]
    rows = [np.argwhere((picture == colour).all(-1))[:, 0].min() for colour in ((255, 0, 0), (0, 0, 255))]
    assert rows[0] < rows[1]
    grid(images[[2, 0, 1]], torch.tensor([2, 2, 0]), ("a", "none", "c"), tmp_path / "b.png", per_class=1)
    picture = pixels(tmp_path / "b.png")
    rows = [np.argwhere((picture == colour).all(-1))[:, 0].min() for colour in ((255, 0, 0), (0, 0, 255))]
    assert rows[0] > rows[1], "class by class in the set, so in its order"


@pytest.mark.parametrize(
    ("classes", "side", "shown"), [(1, 8, 1), (10, 32, 10), (100, 32, 100), (1000, 32, 100), (1000, 224, 17)]
)
def test_grid_stays_within_bounds(tmp_path, classes, side, shown):
    images = torch.tensor(100 / 255).expand(classes, 1, side, side)
    grid(images, torch.arange(classes), [f"class {label}" for label in range(classes)], tmp_path / "a.png")
    picture = pixels(tmp_path / "a.png")
    factor = 64 // side if classes <= 60 and side < 64 else 1
    assert holds(picture, (100, 100, 100)) >= shown * (factor * side) ** 2
    assert holds(picture, (100, 100, 100)) < shown * (factor * side) ** 2 + 500  # the names' edges
    assert picture.shape[0] < 4300


def test_grid_says_what_it_leaves_out(tmp_path):
    images = torch.zeros(120, 1, 8, 8)
    names = [f"class {label}" for label in range(120)]
    grid(images[:100], torch.arange(100), names, tmp_path / "all.png")
    grid(images, torch.arange(120), names, tmp_path / "more.png")
    assert pixels(tmp_path / "more.png").shape[0] == pixels(tmp_path / "all.png").shape[0] + 18


@pytest.mark.parametrize(
    "name", ["", "x" * 500, "line\nbreak\ttab\x1b[31m", "кошка", "猫", "\U0001f408", "a\u0301", "\udcff"]
)
def test_grid_of_odd_names(tmp_path, name):
    grid(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), (name, "b"), tmp_path / "a.png", title=name)
    assert pixels(tmp_path / "a.png").shape[1] < 1200


def test_grid_refusals(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(ConfigError, match="no images to draw"):
        grid(torch.zeros(0, 1, 4, 4), torch.zeros(0, dtype=torch.int64), ("a",), path)
    with pytest.raises(ConfigError, match="found 0 images per class"):
        grid(torch.zeros(1, 1, 4, 4), torch.tensor([0]), ("a",), path, per_class=0)
    path.write_text("mine")
    with pytest.raises(StoreError, match="already exists"):
        grid(torch.zeros(1, 1, 4, 4), torch.tensor([0]), ("a",), path, force=False)
    with pytest.raises(StoreError, match="already exists"):
        loss_curve([{"iteration": 1, "loss": 1.0}], path, force=False)
    assert path.read_text() == "mine"
    with pytest.raises(StoreError, match="there is no folder"):
        grid(torch.zeros(1, 1, 4, 4), torch.tensor([0]), ("a",), tmp_path / "absent" / "a.png")


def test_pictures_have_equal_bytes_each_time(tmp_path):
    records = [{"iteration": step, "loss": 1 / step, "seconds": 0.1} for step in range(1, 50)]
    backend = matplotlib.get_backend()
    for name in ("a.png", "b.png"):
        loss_curve(records, tmp_path / name)
    assert matplotlib.get_backend() == backend
    assert "matplotlib.pyplot" not in sys.modules or not matplotlib.pyplot.get_fignums()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert is_picture(tmp_path / "a.png")


@pytest.mark.parametrize("count", [1, 2, 3, 10, 2000])
def test_loss_curve_draws_line_and_median(tmp_path, count):
    generator = torch.Generator().manual_seed(0)
    losses = torch.rand(count, generator=generator) + 1
    records = [{"iteration": step, "loss": float(loss)} for step, loss in enumerate(losses, 1)]
    loss_curve(records, tmp_path / "a.png")
    picture = pixels(tmp_path / "a.png")
    assert picture.shape == (540, 960, 3)
    orange = (np.abs(picture.astype(int) - (255, 127, 14)) < 10).all(-1).sum()
    assert (orange > 100) == (count >= 3)
    assert (picture[..., 2].astype(int) - picture[..., 0] > 40).sum() > 5  # blue


def test_loss_curve_leaves_out_what_has_no_logarithm(tmp_path):
    sound = [{"iteration": 1, "loss": 2.0}, {"iteration": 4, "loss": 1.0}]
    odd = [{"iteration": 2, "loss": float("nan")}, {"iteration": 3, "loss": 0.0}, {"event": "resumed"}]
    loss_curve(sound, tmp_path / "a.png")
    loss_curve([sound[0], *odd, sound[1]], tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with pytest.raises(ConfigError, match="no positive, finite loss in 3 records"):
        loss_curve(odd, tmp_path / "c.png")


def test_running_median_against_a_plain_loop():
    values = np.random.default_rng(0).random(40)
    positions, medians = running_median(values, 9)
    assert positions.tolist() == list(range(4, 36))
    for at, median in zip(positions, medians, strict=True):
        assert median == sorted(values[at - 4 : at + 5])[4]
    positions, medians = running_median(np.arange(10_000.0), 501, points=100)
    assert (len(positions), positions[0], positions[-1]) == (100, 250, 9749)
    assert medians.tolist() == positions.tolist()

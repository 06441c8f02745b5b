"""Where pictures of embeddings put their points, and what they draw of them."""

from __future__ import annotations

import sys
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from small import coloured_source, small_selection

from atom_plugin.distillation.selected_set import selected_set
from atom_plugin.errors import ConfigError, SourceError, StoreError
from atom_plugin.evaluation.embedding_map import (
    EmbeddingMap,
    EmbeddingMapConfig,
    draw_embedding_map,
    embedding_map,
    project,
)
from atom_plugin.runtime.picture_files import is_picture


def rows(count: int, seed: int, size: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, size)) * np.arange(1, size + 1)


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def held(data=None, **overrides):
    return selected_set(small_selection(**overrides), data or coloured_source())


def points(classes: int = 3, each: int = 2, **others) -> EmbeddingMap:
    draw = np.random.default_rng(0)
    labels = np.arange(classes).repeat(each)
    names = tuple(f"class {label}" for label in range(classes))
    made = {
        "real": draw.normal(size=(len(labels), 2)),
        "real_labels": labels,
        "synthetic": draw.normal(size=(len(labels), 2)),
        "synthetic_labels": labels,
        "class_names": names,
        "method": "pca",
        "network": "ConvNet",
    }
    return EmbeddingMap(**{**made, **others})


def test_pca_is_the_two_widest_axes_of_the_real_rows():
    real, synthetic = rows(40, 0), rows(7, 1) + 50
    found = project(real, synthetic, "pca", seed=0)
    values, vectors = np.linalg.eigh(np.cov(real.T))
    for axis in range(2):
        vector = vectors[:, np.argsort(values)[-1 - axis]]
        expected = [float(sum((row - real.mean(0)) * vector)) for row in (*real, *synthetic)]
        sign = np.sign(expected[0] * found[0, axis])
        np.testing.assert_allclose(found[:, axis], sign * np.array(expected), rtol=1e-8, atol=1e-8)


def test_tsne_keeps_neighbours_together_and_repeats_itself():
    centres = np.repeat(np.eye(3, 8) * 40, 15, axis=0)
    real, synthetic = centres + rows(45, 0, 8) / 8, np.eye(3, 8) * 40
    found = project(real, synthetic, "tsne", seed=3)
    assert found.shape == (48, 2)
    distances = np.linalg.norm(found[45:, None] - found[None, :45], axis=2)
    assert all(set(np.argsort(distances[k])[:15]) == set(range(15 * k, 15 * k + 15)) for k in range(3))
    assert np.array_equal(found, project(real, synthetic, "tsne", seed=3))
    assert np.isfinite(project(real[[0, 20, 40]], synthetic[:1], "tsne", seed=2**63 - 1)).all()


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_rows_that_tell_nothing(method):
    for real in (rows(2, 0), np.ones((9, 6)), np.full((9, 6), np.nan)):
        with pytest.raises(ConfigError, match="too few, not finite or all equal, expected at least three"):
            project(real, rows(3, 1), method, seed=0)


def mapped(synthetic_set, data, *, on_images=None, **options) -> EmbeddingMap:
    return embedding_map(
        synthetic_set, data, EmbeddingMapConfig(device="cpu", precision="float32", **options), on_images=on_images
    )


@pytest.mark.parametrize("state", ["random", "trained:2"])
def test_a_map_of_a_set_of_real_images_puts_them_where_the_same_real_images_are(state):
    data, told = coloured_source(), []
    synthetic_set = held(data, method="random")
    found = mapped(synthetic_set, data, method="pca", state=state, on_images=told.append)
    assert found.real_labels.tolist() == sorted(data.train.labels.tolist())
    assert found.synthetic_labels.tolist() == [0, 0, 1, 1, 2, 2]
    for point in found.synthetic:
        assert np.linalg.norm(found.real - point, axis=1).min() < 1e-4
    assert sum(told) == (72 if state == "trained:2" else 0)
    assert ("trained 2 epochs on the real images" in found.network) == (state == "trained:2")
    again = mapped(synthetic_set, data, method="pca", state=state)
    assert np.array_equal(found.real, again.real)
    other = mapped(synthetic_set, data, method="pca", state=state, seed=1)
    assert not np.array_equal(found.real, other.real)


def test_training_brings_classes_apart():
    data = coloured_source(per_class=40)

    def separation(state):
        found = mapped(held(data), data, method="pca", state=state)
        means = np.stack([found.real[found.real_labels == label].mean(0) for label in range(3)])
        within = np.linalg.norm(found.real - means[found.real_labels], axis=1).mean()
        return np.linalg.norm(means - means[[1, 2, 0]], axis=1).mean() / within

    assert separation("trained:30") > 1.3 * separation("random")


def test_limits_on_real_points():
    data = coloured_source(classes=4, per_class=30)
    some = held(data).subset([1, 3])
    found = mapped(some, data, method="pca", state="random", per_class=5)
    assert found.real_labels.tolist() == [1] * 5 + [3] * 5
    assert found.classes == [1, 3]
    many = coloured_source(classes=200, per_class=12, size=4)
    wide = held(many, ipc=1, network={"depth": 1, "width": 4})
    assert len(mapped(wide, many, method="pca", state="random").real) == 2000


def test_maps_that_cannot_be(tmp_path):
    data = coloured_source()
    some = held(data)
    with pytest.raises(ConfigError, match="no projection is called 'tsn'; did you mean 'tsne'"):
        mapped(some, data, method="tsn")
    with pytest.raises(ConfigError, match="must be random or trained:EPOCHS"):
        mapped(some, data, state="trained")
    empty = replace(some, images=some.images[:0], labels=some.labels[:0])
    with pytest.raises(ConfigError, match="is the set empty"):
        mapped(empty, data, state="random")
    keep = data.train.labels != 1
    gap = replace(data, train=replace(data.train, images=data.train.images[keep], labels=data.train.labels[keep]))
    with pytest.raises(SourceError, match="no training images of class 'class 1'"):
        mapped(some, gap, state="random")
    with pytest.raises(ConfigError, match="draw more classes or images per class"):
        mapped(some.subset([0]), data, state="random", per_class=2)
    (tmp_path / "a.png").write_text("mine")
    with pytest.raises(StoreError, match="already exists"):
        draw_embedding_map(points(), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_text() == "mine"


def test_synthetic_points_are_large_and_marked_real_ones_small(tmp_path):
    lone = points(classes=1, each=1, real=np.array([[0.0, 0.0]]), synthetic=np.array([[1.0, 1.0]]))
    draw_embedding_map(lone, tmp_path / "a.png")
    picture = pixels(tmp_path / "a.png")[:, :700]  # without the legend
    blue = (np.abs(picture - (31, 119, 180)) < 25).all(-1)
    faint = (picture[..., 2] - picture[..., 0] > 30) & ~blue
    top, bottom = blue[: len(blue) // 2], faint[len(faint) // 2 :]
    assert top.sum() > 25
    assert 3 < bottom.sum() < 30


def test_the_same_map_gives_the_same_bytes_and_leaves_pyplot_alone(tmp_path):
    backend = matplotlib.get_backend()
    for name in ("a.png", "b.png"):
        draw_embedding_map(points(), tmp_path / name, title="a set")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert is_picture(tmp_path / "a.png")
    assert matplotlib.get_backend() == backend
    assert "matplotlib.pyplot" not in sys.modules or not matplotlib.pyplot.get_fignums()


@pytest.mark.parametrize("classes", [1, 11, 130])
def test_any_number_of_classes(tmp_path, classes):
    draw_embedding_map(points(classes), tmp_path / "a.png", title="x")
    height, width, _ = pixels(tmp_path / "a.png").shape
    assert (height, width <= 1200) == (620, True)


@pytest.mark.parametrize("name", ["", "_hidden", "$x", "$\\frac$", "x" * 400, "line\nbreak", "кошка", "猫", "\x1b[31m"])
def test_odd_names(tmp_path, name):
    draw_embedding_map(points(class_names=(name, "b", "c")), tmp_path / "a.png", title=f"{name}: 3 classes")
    assert pixels(tmp_path / "a.png").shape[1] < 900


def test_torch_draws_nothing_global():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    mapped(held(), coloured_source(), method="pca", state="trained:1")
    assert torch.equal(before, torch.get_rng_state())

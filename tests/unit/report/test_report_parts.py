"""The parts of a report: rows of facts, pictures within the page, and the nearest real images."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import coloured_source
from synthetic_sets import make_set

from atom_plugin.datasets import Split
from atom_plugin.report.facts import config_rows, fact_rows
from atom_plugin.report.nearest import nearest_real
from atom_plugin.report.pictures import row_of
from atom_plugin.store import read_header
from atom_plugin.transforms.preprocessing import Preprocessing


def pixels_of(source: str) -> np.ndarray:
    kind, _, data = source.partition(";base64,")
    assert kind == "data:image/png"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_a_row_of_images_is_their_very_pixels() -> None:
    images = torch.rand(3, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    row = row_of(images, "three")
    found = pixels_of(row.source)
    assert found.shape == (4, 17, 4) and (row.width, row.height, row.alt) == (17 * 12, 48, "three")
    for number in range(3):
        part = found[:, 6 * number : 6 * number + 5]
        expected = (images[number] * 255).round().byte().permute(1, 2, 0).numpy()
        assert (part[..., :3] == expected).all() and (part[..., 3] == 255).all()
    assert (found[:, 5] == 0).all(), "between images the page shows"
    large = row_of(torch.zeros(2, 1, 64, 64), "grey")
    assert (large.width, large.height) == (129, 64)


def test_nearest_images_are_of_the_class_and_in_order() -> None:
    data = coloured_source()
    held = make_set(classes=3, ipc=1, shape=(3, 8, 8))
    held = replace(held, preprocessing=Preprocessing.fit(data.train, zca_eps=0.1))
    found = nearest_real(held, [0, 1, 2], data.train, count=3)
    for row in range(3):
        own = data.train.images[data.train.labels == row]
        distances = (held.preprocessing.forward(own) - held.images[row]).flatten(1).norm(dim=1)
        assert torch.equal(found[row], own[distances.argsort()[:3]])


def test_few_real_images_or_none() -> None:
    held = make_set(classes=2, ipc=1, shape=(1, 4, 4))
    real = Split(images=torch.full((1, 1, 4, 4), 7, dtype=torch.uint8), labels=torch.tensor([0]))
    found = nearest_real(held, [0, 1], real, count=2)
    assert (found[0] == 7).all() and (found[1] == 0).all() and found.shape == (2, 2, 1, 4, 4)


def test_facts_stand_side_by_side_and_say_where_they_differ(tmp_path: Path) -> None:
    sets = [make_set(shape=(1, 8, 8)), make_set(shape=(1, 8, 8), factor=2, storage="uint8", method="dm\x1b")]
    for number, held in enumerate(sets):
        held.save(tmp_path / f"{number}.h5")
    rows = {row.name: row for row in fact_rows(sets, [read_header(tmp_path / f"{n}.h5") for n in (0, 1)])}
    assert rows["method"].values == ("atom", r"dm\x1b") and rows["method"].differs
    assert rows["images that networks see"].values == ("6", "24")
    assert rows["stored as"].values == ("float32", "uint8, packed 2 x 2")
    assert rows["bytes of the images"].values == ("1,536", "384")
    assert rows["bytes of as many real images"].values == ("384", "1,536")
    assert not rows["iterations"].differs


@pytest.mark.parametrize("value", [None, 0, "x", [1, 2], {}])
def test_every_choice_has_a_row(value: object) -> None:
    held = make_set(config={"ipc": 2, "network": {"width": 8, "depth": None}, "other": value})
    rows = {row.name: row.values for row in config_rows([held, make_set(config={"ipc": 2})])}
    assert rows["ipc"] == ("2", "2") and rows["network.width"] == ("8", "–")  # noqa: RUF001
    assert ("other" in rows) == (value != {})

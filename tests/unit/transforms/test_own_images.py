"""Images of any size and kind come out as the source of a set would have had them, preprocessed."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from atom_plugin.datasets import SourceRequest, load_source
from atom_plugin.datasets.pixels import Decoding
from atom_plugin.errors import AtomError, ConfigError, SourceError
from atom_plugin.transforms.own_images import OwnImages
from atom_plugin.transforms.preprocessing import Preprocessing, to_uint8


def plain(channels: int = 3, height: int = 8, width: int = 8) -> OwnImages:
    """Preprocessing that doubles."""
    mean, std = torch.zeros(channels), torch.full((channels,), 0.5)
    return OwnImages(preprocessing=Preprocessing(mean=mean, std=std, image_shape=(channels, height, width)))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def write_photos(folder: Path, height: int, width: int) -> None:
    for split in ("train", "test"):
        for number, name in enumerate(("a", "b")):
            (folder / split / name).mkdir(parents=True)
            pixels = noise(height + number, width, 3, seed=number + len(split)).numpy()
            Image.fromarray(pixels).save(folder / split / name / "0.jpg", quality=95)


def as_pixels(preprocess: OwnImages, image: torch.Tensor) -> torch.Tensor:
    return to_uint8(preprocess.preprocessing.inverse(image))


def test_a_file_an_image_and_a_tensor_are_read_as_the_source_reads_them(tmp_path: Path) -> None:
    write_photos(tmp_path, 23, 40)
    data = load_source("folder", SourceRequest(data_dir=tmp_path, image_size=16))
    preprocess = OwnImages(preprocessing=Preprocessing.fit(data.train, zca_eps=0.1))
    expected = preprocess.preprocessing.forward(data.test.images)
    for row, name in enumerate(("a", "b")):
        file = tmp_path / "test" / name / "0.jpg"
        with Image.open(file) as opened:
            pixels = torch.from_numpy(np.asarray(opened).copy()).permute(2, 0, 1)
            for given in (file, str(file), opened, pixels, v2.functional.to_image(opened)):
                found = preprocess(given)
                assert torch.allclose(found, expected[row], atol=1e-4)
                assert torch.equal(as_pixels(preprocess, found), data.test.images[row])
    assert torch.equal(pickle.loads(pickle.dumps(preprocess))(pixels), found)


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size_as_the_source_does_it(tmp_path: Path) -> None:
    write_photos(tmp_path, 130, 170)
    data = load_source("folder", SourceRequest(data_dir=tmp_path, image_size=16))
    preprocess = OwnImages(preprocessing=Preprocessing.fit(data.train))
    found = preprocess(tmp_path / "test" / "a" / "0.jpg")
    assert torch.equal(as_pixels(preprocess, found), data.test.images[0])


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 12), (12, 7)])
def test_the_middle_of_that_shape_is_resized(height: int, width: int) -> None:
    big = noise(3, 4 * height, 4 * width)
    padded = torch.cat([torch.zeros_like(big[..., :10]), big, torch.zeros_like(big[..., :10])], dim=2)
    found = plain(height=height, width=width)(padded)
    assert found.shape == (3, height, width) and found.dtype == torch.float32
    resized = Image.fromarray(big.permute(1, 2, 0).numpy()).resize((width, height), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1) / 255 * 2
    # Bicubic weights reach two results beyond the part that is cut, into what was padded.
    assert torch.allclose(found[..., 2:-2], expected[..., 2:-2])


def test_an_image_of_the_right_size_stays() -> None:
    pixels = noise(5, 2, 3, 8, 8)
    assert torch.allclose(plain()(pixels), pixels / 255 * 2)


def test_other_numbers_of_channels() -> None:
    grey = noise(1, 20, 20)
    assert torch.equal(plain()(grey), plain(1)(grey).expand(3, 8, 8))
    assert plain(2)(noise(4, 2, 9, 9)).shape == (4, 2, 8, 8)
    for preprocess, image in ((plain(1), noise(3, 9, 9)), (plain(), noise(4, 9, 9)), (plain(2), noise(1, 9, 9))):
        with pytest.raises(ConfigError, match=r"found an image of \d channel.* expected \d channel.*convert"):
            preprocess(image)


def test_it_stands_in_a_composition() -> None:
    pixels = noise(3, 31, 17)
    assert torch.equal(v2.Compose([plain(), v2.RandomHorizontalFlip(1.0)])(pixels), plain()(pixels).flip(-1))


@pytest.mark.parametrize(
    ("given", "kind", "told"),
    [
        (torch.zeros(3, 9, 9), ConfigError, "torch.float32"),
        (noise(9, 9), ConfigError, r"\(9, 9\)"),
        (noise(3, 0, 9), ConfigError, r"\(3, 0, 9\)"),
        (np.zeros((9, 9, 3), np.uint8), ConfigError, "ndarray"),
        (None, ConfigError, "NoneType"),
        (Image.new("F", (9, 9)), SourceError, "convert"),
        ("nowhere.png", SourceError, "nowhere.png"),
        (Path(__file__), SourceError, "test_own_images.py"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(given: object, kind: type[AtomError], told: str) -> None:
    with pytest.raises(kind, match=told) as caught:
        plain()(given)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_bits_and_pixels_are_those_of_the_source(tmp_path: Path) -> None:
    twelve = Image.fromarray(np.full((8, 8), 4095, np.uint16))
    twelve.save(tmp_path / "x.png")
    prepared = plain(1).preprocessing
    deep = OwnImages(preprocessing=prepared, decoding=Decoding(bit_depth=12))
    assert torch.equal(deep(tmp_path / "x.png"), torch.full((1, 8, 8), 2.0))
    assert torch.equal(deep(twelve), torch.full((1, 8, 8), 2.0))
    with pytest.raises(SourceError, match="8x8 pixels"):
        OwnImages(preprocessing=prepared, decoding=Decoding(max_pixels=63))(tmp_path / "x.png")


def test_it_says_what_it_does() -> None:
    assert "3x8x8" in repr(plain()) and "std 0.500" in repr(plain())

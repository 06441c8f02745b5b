"""Every kind of image file, written by PIL and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from image_bytes import tiff
from PIL import Image, UnidentifiedImageError

from atom_plugin.datasets.pixels import Decoding, decode, resize_all, sixteen_bit_maximum, size_of, suffixes

Array = npt.NDArray[np.uint8]


def colours(height: int = 5, width: int = 7, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def test_rgb_is_read_as_it_is(tmp_path: Path) -> None:
    pixels = colours()
    decoded = decode(saved(tmp_path / "a.png", Image.fromarray(pixels)))
    assert decoded.shape == (3, 5, 7) and decoded.dtype == np.uint8
    assert np.array_equal(decoded, pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_stays_one_channel(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(colours()).convert(mode)
    decoded = decode(saved(tmp_path / "a.png", image))
    assert np.array_equal(decoded, np.asarray(image.convert("L"))[None])


def test_grey_looking_rgb_counts_as_colour(tmp_path: Path) -> None:
    assert decode(saved(tmp_path / "a.png", Image.new("L", (4, 4), 9).convert("RGB"))).shape == (3, 4, 4)


def test_rgba_is_composed_on_white(tmp_path: Path) -> None:
    pixels = np.array([[[200, 0, 40, 255], [200, 0, 40, 0], [200, 0, 40, 128]]], dtype=np.uint8)
    decoded = decode(saved(tmp_path / "a.png", Image.fromarray(pixels)))
    alpha = pixels[..., 3:] / 255
    expected = pixels[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(decoded.transpose(1, 2, 0) - expected).max() <= 1
    assert decoded[:, 0, 1].tolist() == [255, 255, 255]


def test_transparent_grey_is_composed_on_white_and_stays_grey(tmp_path: Path) -> None:
    pixels = np.array([[[10, 255], [10, 0], [10, 51]]], dtype=np.uint8)
    decoded = decode(saved(tmp_path / "a.png", Image.fromarray(pixels)))
    assert decoded.shape == (1, 1, 3)
    assert decoded.flatten().tolist() == pytest.approx([10, 255, 206], abs=1)


@pytest.mark.parametrize(
    "mode_and_key",
    [("RGB", (0, 0, 0)), ("L", 0), ("P", 0), ("P", bytes([0, 255, 128])), ("1", 0)],
    ids=["RGB", "L", "P", "P-bytes", "1"],
)
def test_a_transparent_colour_key_becomes_white(tmp_path: Path, mode_and_key: tuple[str, object]) -> None:
    mode, key = mode_and_key
    image = Image.new(mode, (3, 2))
    if mode == "P":
        image.putpalette([0, 0, 0, 250, 10, 20, 0, 0, 0])
    image.putpixel((2, 1), (250, 10, 20) if mode == "RGB" else 1)
    decoded = decode(saved(tmp_path / "a.png", image, transparency=key))
    assert (decoded[:, 0, 0] == 255).all()
    assert (decoded[:, 1, 2] != 0).any() or mode == "L"
    assert len(decoded) == (1 if mode in "L1" else 3)


def test_palette_and_cmyk_become_rgb(tmp_path: Path) -> None:
    flat = Image.new("RGB", (4, 4), (250, 10, 20))
    palette = decode(saved(tmp_path / "a.gif", flat.quantize(4)))
    assert palette.shape == (3, 4, 4) and palette[:, 0, 0].tolist() == [250, 10, 20]
    cmyk = decode(saved(tmp_path / "a.jpg", flat.convert("CMYK"), quality=95))
    assert cmyk.shape == (3, 4, 4)
    assert cmyk[:, 0, 0].tolist() == pytest.approx([250, 10, 20], abs=6)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    levels = np.array([[0, 257, 32768, 65535, 128, 129]], dtype=np.uint16)
    decoded = decode(saved(tmp_path / f"a.{suffix}", Image.fromarray(levels)))
    assert decoded.tolist() == [[[round(level / 257) for level in levels[0].tolist()]]]


def test_thirty_two_bits_only_within_sixteen(tmp_path: Path) -> None:
    fits = Image.fromarray(np.array([[0, 65535]], dtype=np.int32))
    assert decode(saved(tmp_path / "a.tif", fits)).tolist() == [[[0, 255]]]
    for levels in ([[0, 65536]], [[-1, 5]]):
        with pytest.raises(ValueError, match="16 bits"):
            decode(saved(tmp_path / "b.tif", Image.fromarray(np.array(levels, dtype=np.int32))))


def test_float_pixels_have_no_range(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no known range"):
        decode(saved(tmp_path / "a.tif", Image.fromarray(np.ones((2, 2), np.float32))))


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    # Row and column zero of the stored image, by the EXIF standard, and so the way back to the upright one.
    upright = colours()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True, "exact": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(np.ascontiguousarray(stored)), exif=exif, **lossless)
    assert np.array_equal(decode(path), upright.transpose(2, 0, 1))
    assert size_of(path) == (7, 5)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_spoil_an_image(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", Image.fromarray(colours()), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12garbage")
    assert decode(path).shape == (3, 5, 7)


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (3, 3), colour) for colour in ((200, 0, 0), (0, 200, 0))]
    path = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert decode(path)[:, 0, 0].tolist() == [200, 0, 0]


@pytest.mark.parametrize("shape", [(8, 16), (16, 8), (10, 30)])
def test_resizing_takes_the_centre_square(tmp_path: Path, shape: tuple[int, int]) -> None:
    image = Image.fromarray(colours(*shape))
    # Literally: the short side to 4, then the middle 4 of the long side.
    whole = image.resize((image.width * 4 // min(shape), image.height * 4 // min(shape)), Image.Resampling.BICUBIC)
    left, top = (whole.width - 4) // 2, (whole.height - 4) // 2
    expected = np.asarray(whole.crop((left, top, left + 4, top + 4))).transpose(2, 0, 1)
    decoded = decode(saved(tmp_path / "a.png", image), Decoding(image_size=4))
    assert np.abs(decoded.astype(int) - expected).max() <= 1  # PIL rounds between its two passes


def test_shrinking_is_antialiased(tmp_path: Path) -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (32, 16))
    decoded = decode(saved(tmp_path / "a.png", Image.fromarray(stripes)), Decoding(image_size=4))
    assert np.abs(decoded.astype(int) - 128).max() <= 20  # taking every eighth pixel would give 0 or 255


def test_a_large_jpeg_shrinks_to_nearly_the_same(tmp_path: Path) -> None:
    yy, xx = np.mgrid[0:300, 0:400]
    smooth = np.stack([yy * 255 // 300, xx * 255 // 400, (xx + yy) * 255 // 700], -1).astype(np.uint8)
    path = saved(tmp_path / "a.jpg", Image.fromarray(smooth), quality=95)
    # The short cut through a fraction of the JPEG's resolution must not be seen.
    whole = Image.fromarray(smooth).resize((32, 32), Image.Resampling.BICUBIC, box=(50, 0, 350, 300))
    assert np.abs(decode(path, Decoding(image_size=32)).astype(int) - np.asarray(whole).transpose(2, 0, 1)).max() <= 6


@pytest.mark.parametrize("channels", [1, 3])
def test_resize_all_is_what_files_get(tmp_path: Path, channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, channels, 9, 9), dtype=np.uint8)
    resized = resize_all(images, 5)
    for image, small in zip(images, resized, strict=True):
        picture = Image.fromarray(image[0] if channels == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))
        assert np.array_equal(decode(saved(tmp_path / "a.png", picture), Decoding(image_size=5)), small)
    assert np.array_equal(resize_all(images, 9), images)


def test_all_endings_are_read(tmp_path: Path) -> None:
    for suffix in suffixes():
        mode = {".pbm": "1", ".pgm": "L", ".pnm": "RGB"}.get(suffix, "RGB")
        assert decode(saved(tmp_path / f"a{suffix}", Image.new(mode, (4, 6)))).shape[1:] == (6, 4)


@pytest.mark.parametrize("depth", [10, 12, 14])
@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_a_bit_depth_is_scaled_to_white(tmp_path: Path, depth: int, suffix: str) -> None:
    top = 2**depth - 1
    levels = np.array([[0, 1, top // 2, top]], dtype=np.uint16)
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(levels))
    found = decode(path, Decoding(bit_depth=depth))
    assert found.tolist() == [[[round(level * 255 / top) for level in levels[0].tolist()]]]
    assert sixteen_bit_maximum(path, Decoding()) == (top, True)
    with pytest.raises(ValueError, match=rf"{top} do not fit into {depth - 1} bits"):
        decode(path, Decoding(bit_depth=depth - 1))


def test_a_tiff_of_twelve_bits_says_so_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(
        tiff({256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 277: 1, 278: 1}, bytes([0xFF, 0xF0, 0x00, 0x80, 0x00, 0x01]))
    )
    assert decode(path).tolist() == [[[255, 0, 128, 0]]]
    assert sixteen_bit_maximum(path, Decoding()) is None


def test_eight_bits_have_no_depth_to_tell(tmp_path: Path) -> None:
    assert sixteen_bit_maximum(saved(tmp_path / "a.png", Image.new("L", (2, 2))), Decoding()) is None
    assert sixteen_bit_maximum(saved(tmp_path / "a.gif", Image.new("P", (2, 2))), Decoding()) is None


def test_a_large_image_is_refused_by_its_header(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.new("1", (300, 200)))
    assert decode(path, Decoding(max_pixels=60_000)).shape == (1, 200, 300)
    for how in (Decoding(max_pixels=59_999), Decoding(max_pixels=59_999, image_size=8)):
        with pytest.raises(ValueError, match=r"300x200 pixels.*59,999.*--max-pixels"):
            decode(path, how)


def test_the_limit_stands_in_place_of_pillows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.png", Image.new("1", (30, 20)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="--max-pixels"):
        decode(path, Decoding(max_pixels=100))
    assert decode(path, Decoding(max_pixels=600)).shape == (1, 20, 30)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_the_default_limit_refuses_thirteen_thousand_pixels_a_side(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.new("1", (13_000, 13_000)))
    with pytest.raises(ValueError, match="13000x13000"):
        decode(path)


def test_only_formats_of_pixels_are_endings() -> None:
    assert {".jfif", ".jpe", ".png", ".webp", ".tiff"} <= set(suffixes())
    assert not {".pdf", ".eps", ".ps", ".wmf", ".h5", ".mpg", ".psd"} & set(suffixes())


def test_a_file_to_be_rendered_is_not_opened_under_an_images_name(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path, format="EPS")
    with pytest.raises(UnidentifiedImageError):
        decode(path)

import pytest
import torch
from kornia.enhance import ZCAWhitening
from small import coloured_source

from atom_plugin.errors import ConfigError
from atom_plugin.transforms import preprocessing, whitening
from atom_plugin.transforms.preprocessing import Preprocessing, to_uint8
from atom_plugin.transforms.whitening import Whitening


def images() -> torch.Tensor:
    return coloured_source(per_class=80, size=4).train.images


def test_moments_are_those_of_the_pixels():
    fitted = Preprocessing.fit(images())
    pixels = images().double() / 255
    torch.testing.assert_close(fitted.mean.double(), pixels.mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(fitted.std.double(), pixels.std((0, 2, 3), unbiased=False), rtol=1e-6, atol=0)
    out = fitted.forward(images())
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.std((0, 2, 3), unbiased=False), torch.ones(3), rtol=1e-5, atol=0)


def test_known_constants_are_used_as_given():
    fitted = Preprocessing.fit(images(), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    expected = (images().float() / 255 - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor(
        [0.5, 0.6, 0.7]
    ).view(3, 1, 1)
    torch.testing.assert_close(fitted.forward(images()), expected)


def test_uint8_and_unit_floats_are_the_same_image():
    fitted = Preprocessing.fit(images(), zca_eps=0.1)
    torch.testing.assert_close(fitted.forward(images()), fitted.forward(images().float() / 255), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("eps", [0.1, 1e-6])
def test_whitening_is_kornias_on_the_standardised_images(standardise, eps):
    fitted = Preprocessing.fit(images(), standardise=standardise, zca_eps=eps)
    plain = Preprocessing.fit(images(), standardise=standardise)
    expected = ZCAWhitening(dim=0, eps=eps).fit(plain.forward(images()))(plain.forward(images()))
    torch.testing.assert_close(fitted.forward(images()), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("eps", [0.1, 1e-6])
def test_streamed_whitening_is_kornias(standardise, eps, monkeypatch):
    kornias = Preprocessing.fit(images(), standardise=standardise, zca_eps=eps)
    monkeypatch.setattr(whitening, "KORNIA_BYTES", 0)
    monkeypatch.setattr(preprocessing, "_PART", 7)
    streamed = Preprocessing.fit(images(), standardise=standardise, zca_eps=eps)
    torch.testing.assert_close(streamed.whitening.mean, kornias.whitening.mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(streamed.whitening.matrix, kornias.whitening.matrix, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(streamed.forward(images()), kornias.forward(images()), rtol=1e-3, atol=1e-3)


def test_of_very_many_images_some_of_every_class_are_whitened_by(monkeypatch):
    monkeypatch.setattr(whitening, "KORNIA_BYTES", 0)
    monkeypatch.setattr(whitening, "STREAMED_IMAGES", 60)
    source = coloured_source(per_class=80, size=4).train
    streamed = Preprocessing.fit(source, zca_eps=0.1)
    used = source.images[::4]
    moments = Preprocessing.fit(source)
    expected = ZCAWhitening(dim=0, eps=0.1, compute_inv=False).fit(moments.forward(used)).transform_matrix
    torch.testing.assert_close(streamed.whitening.matrix, expected, rtol=1e-3, atol=1e-3)


def test_moments_in_parts_are_exact(monkeypatch):
    whole = Preprocessing.fit(images())
    monkeypatch.setattr(preprocessing, "_PART", 7)
    parts = Preprocessing.fit(images())
    assert torch.equal(whole.mean, parts.mean) and torch.equal(whole.std, parts.std)


def test_plain_zca_whitens():
    out = Preprocessing.fit(images(), standardise=False, zca_eps=1e-6).forward(images()).flatten(1)
    torch.testing.assert_close(out.T.cov(), torch.eye(48), rtol=0, atol=0.02)


@pytest.mark.parametrize("eps", [None, 0.1, 1e-6])
def test_inverse_gives_the_image_back(eps):
    fitted = Preprocessing.fit(images(), zca_eps=eps)
    torch.testing.assert_close(fitted.inverse(fitted.forward(images())), images().float() / 255, rtol=0, atol=2e-4)


def test_a_constant_channel_does_not_divide_by_zero():
    grey = images()
    grey[:, 1] = 7
    out = Preprocessing.fit(grey).forward(grey)
    assert torch.isfinite(out).all()
    torch.testing.assert_close(out[:, 1], torch.zeros_like(out[:, 1]), rtol=0, atol=1e-6)


def test_forward_leaves_its_input_alone():
    given = torch.rand(2, 3, 4, 4)
    kept = given.clone()
    Preprocessing.fit(images()).forward(given)
    assert torch.equal(given, kept)


def test_leading_dimensions_are_free():
    fitted = Preprocessing.fit(images(), zca_eps=0.1)
    grouped = images()[:6].view(2, 3, 3, 4, 4)
    torch.testing.assert_close(fitted.forward(grouped).flatten(0, 1), fitted.forward(images()[:6]))


def test_it_describes_itself():
    assert "ZCA whitened (eps 0.1)" in Preprocessing.fit(images(), zca_eps=0.1).describe()
    assert Preprocessing.fit(images(), standardise=False).describe() == "none (images in [0, 1])"


def test_eps_must_be_positive():
    with pytest.raises(ConfigError, match="eps must be above 0"):
        Preprocessing.fit(images(), zca_eps=0.0)
    with pytest.raises(ConfigError, match="eps must be above 0"):
        Whitening.fit_streamed(lambda: [images().float()], eps=0.0)


@pytest.mark.parametrize("zca_eps", [None, 0.1])
def test_pixels_come_back_from_standardised_and_whitened_images(zca_eps):
    fitted = Preprocessing.fit(images(), zca_eps=zca_eps)
    assert torch.equal(to_uint8(fitted.inverse(fitted.forward(images()))), images())


def test_pixels_outside_the_range_are_clamped_and_those_inside_rounded():
    assert to_uint8(torch.tensor([-0.5, 0.5, 0.9981, 1.0, 7.0])).tolist() == [0, 128, 255, 255, 255]


def test_it_is_called_like_a_transform_and_says_its_shape():
    fitted = Preprocessing.fit(images(), zca_eps=0.1)
    assert torch.equal(fitted(images()[0]), fitted.forward(images()[0]))
    assert repr(fitted).startswith("Preprocessing(3x4x4: standardised") and len(repr(fitted)) < 200


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (torch.zeros(2, 3, 5, 4), r"\(2, 3, 5, 4\), expected \(\.\.\., 3, 4, 4\)"),
        (torch.zeros(3), r"found images of shape \(3,\)"),
        (torch.zeros(2, 3, 4, 4).to_sparse(), "sparse_coo tensor"),
        (torch.zeros(2, 3, 4, 4, device="meta"), "meta tensor"),
    ],
)
def test_what_holds_no_images_of_its_shape_is_refused(wrong, said):
    fitted = Preprocessing.fit(images(), zca_eps=0.1)
    for apply in (fitted, fitted.inverse):
        with pytest.raises(ConfigError, match=said):
            apply(wrong)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_numbers_of_no_known_range_are_refused(dtype):
    with pytest.raises(ConfigError, match=r"expected uint8 in 0\.\.255"):
        Preprocessing.fit(images())(torch.ones(2, 3, 4, 4, dtype=dtype))

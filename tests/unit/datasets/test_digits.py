"""The embedded digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atom_plugin.datasets import SourceData, SourceRequest, load_source, reload_source
from atom_plugin.errors import ConfigError


@pytest.fixture(scope="module")
def digits() -> SourceData:
    return load_source("digits", SourceRequest())


def test_shapes_and_scale(digits: SourceData) -> None:
    assert digits.name == "digits"
    assert digits.image_shape == (1, 8, 8)
    assert digits.class_names == tuple("0123456789")
    assert len(digits.train) + len(digits.test) == 1797
    assert int(digits.train.images.min()) == 0
    assert int(digits.train.images.max()) == 255
    assert digits.mean is None and digits.std is None and digits.options == {}


def test_the_split_is_stratified_and_loses_no_image(digits: SourceData) -> None:
    from sklearn.datasets import load_digits

    levels, targets = load_digits(return_X_y=True)
    held = digits.test.labels.bincount()
    assert torch.equal(held, torch.tensor([int((targets == digit).sum() * 0.2 + 0.5) for digit in range(10)]))
    split_images = torch.cat([digits.train.images, digits.test.images]).flatten(1).numpy()
    whole = np.rint(levels * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, split_images)) == sorted(map(bytes, whole))


def test_the_split_is_the_same_for_everybody(digits: SourceData) -> None:
    for other in (SourceRequest(seed=5), SourceRequest(test_fraction=0.5)):
        with pytest.raises(ConfigError, match="no effect on the source 'digits'"):
            load_source("digits", other)
    # Sets name this fingerprint. If it changes, their test split is lost.
    assert digits.fingerprint == "e34fda8706d1e5a4c7b40d8075f2659bdb0d8b48a42baad05ff8358c927a1944"


def test_resized_and_reloaded() -> None:
    data = load_source("digits", SourceRequest(image_size=16))
    assert data.image_shape == (1, 16, 16)
    assert data.options == {"image_size": 16}
    assert reload_source("digits", data.options).fingerprint == data.fingerprint

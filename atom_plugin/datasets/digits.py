"""The digits of scikit-learn: 1,797 grey images of 8x8, shipped with the library, for use offline."""

from __future__ import annotations

import numpy as np
import torch

from atom_plugin.datasets import SourceData, SourceRequest, Split, takes
from atom_plugin.datasets.common import content_digest, stored_options, stratified_holdout
from atom_plugin.datasets.pixels import resize_all

# Part of the definition of this source's test split, like the 0.2: never change them.
_SPLIT_SEED = 0
_TEST_FRACTION = 0.2


@takes("image_size")
def load_digits(request: SourceRequest) -> SourceData:
    """8x8 handwritten digits of scikit-learn: 10 classes, available offline.

    The original has no split. Here the test split is about 20 % of each class, drawn once (see
    :func:`~atom_plugin.datasets.common.stratified_holdout`; the key is the image's index). No request changes it, so that
    everybody tests on the same images. Levels 0..16 are scaled to 0..255.
    """
    from sklearn.datasets import load_digits as sklearn_digits

    levels, targets = sklearn_digits(return_X_y=True)
    images = np.rint(levels * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    if request.image_size is not None:
        images = resize_all(images, request.image_size)
    class_names = tuple(str(digit) for digit in range(10))
    held_out = torch.tensor(
        stratified_holdout(
            [str(index) for index in range(len(targets))],
            targets.tolist(),
            fraction=_TEST_FRACTION,
            seed=_SPLIT_SEED,
            class_names=class_names,
        )
    )
    pixels, labels = torch.from_numpy(images), torch.from_numpy(targets.astype(np.int64))
    train = Split(images=pixels[~held_out], labels=labels[~held_out])
    test = Split(images=pixels[held_out], labels=labels[held_out])
    return SourceData(
        name="digits",
        train=train,
        test=test,
        class_names=class_names,
        fingerprint=content_digest(train, test, class_names),
        options=stored_options(request),
    )

"""The leak of the whitening in a set's file: it was fitted on all members, and contains their covariance."""

from __future__ import annotations

import numpy as np
import torch

from atom_plugin.audit.attacks import Array
from atom_plugin.datasets import Split
from atom_plugin.transforms.preprocessing import Preprocessing

_PART = 512  # images at a time
_SHARES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the eps that the whitening was fitted with


def whitening_scores(images: Split, preprocessing: Preprocessing) -> Array | None:
    """Minus the Mahalanobis distance of each of ``images`` under the covariance of the fitted ZCA: float64 (n,).

    None without whitening. A covariance is largest along the images that it was computed from. If these are fewer than an image
    has values, it is zero across them, so that the distance identifies members completely. The covariance is the whitening's
    matrix to the power of -2, minus its eps; a small fraction of eps, which depends on float32's precision, is added to make it
    positive.
    """
    whitening = preprocessing.whitening
    if whitening is None:
        return None
    inverse = whitening.inverse_matrix.double()
    identity = torch.eye(len(inverse), dtype=torch.float64)
    covariance = inverse @ inverse - whitening.eps * identity
    for share in _SHARES:
        root, failed = torch.linalg.cholesky_ex(covariance + share * whitening.eps * identity)
        if not failed:
            break
    plain = Preprocessing(mean=preprocessing.mean, std=preprocessing.std, image_shape=preprocessing.image_shape)
    scores = []
    for part in images.parts(_PART):
        rows = plain.forward(part).flatten(1).double() - whitening.mean.double()
        scores.append(-torch.linalg.solve_triangular(root, rows.T, upper=False).square().sum(0).sqrt().numpy())
    return np.concatenate(scores)

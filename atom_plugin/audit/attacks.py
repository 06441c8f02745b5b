"""Membership inference: a score for each image, higher if a network seems to have learnt from it. Arrays in, scores out.

Confidence is the logit of the probability that a network gives to the right class, ``log(p / (1 - p))``, which is nearly
Gaussian over networks (Carlini et al., "Membership Inference Attacks From First Principles", 2022, section IV.C).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from atom_plugin.errors import ConfigError

Array = np.ndarray[Any, Any]
FEWEST_OUT = 2  # networks that did not see an image, below which nothing is said of it
OWN_SPREAD_FROM = 64  # of them; below, one spread for all images is the better estimate (their section VI.C)


def confidences(logits: torch.Tensor, labels: torch.Tensor) -> Array:
    """float64 (n,) of ``logits`` (n, classes) and class ids ``labels`` (n,): the logit of the right class's probability."""
    wide = logits.double()
    right = wide.gather(1, labels[:, None])
    others = wide.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
    return np.asarray((right.squeeze(1) - others).cpu().numpy())


def loss_scores(target: Array) -> Array:
    """(n,): minus the mean cross entropy under the attacked networks, from their confidences ``target`` (R, n).

    The loss-threshold attack (Yeom et al., 2018) predicts "member" above a threshold. Cross entropy is ``log(1 + exp(-c))`` of
    a confidence c.
    """
    return np.asarray(-np.logaddexp(0, -target).mean(0))


def lira_scores(target: Array, shadow: Array, saw: Array) -> Array:
    """(n,): the attacked networks' confidence minus that of networks that did not see the image, in standard deviations.

    The offline likelihood-ratio attack (Carlini et al., equation 4), before the Gaussian's distribution function, which keeps
    the order. ``target`` (R, n) are confidences of the attacked networks, whose mean is taken; ``shadow`` (S, n) those of
    shadow networks, and ``saw`` (S, n), bool, marks the images these were trained on, whose confidences are ignored. NaN for an
    image that fewer than two shadow networks did not see. Raises ConfigError if shapes do not fit.
    """
    if shadow.shape != saw.shape or target.shape[1:] != shadow.shape[1:]:
        raise ConfigError(f"confidences of shapes {target.shape} and {shadow.shape} do not fit seen images {saw.shape}")
    out = ~saw
    count = out.sum(0)
    told = count >= FEWEST_OUT
    mean = (shadow * out).sum(0) / np.maximum(count, 1)
    squares = (((shadow - mean) * out) ** 2).sum(0)
    pooled = squares[told].sum() / max(1, (count[told] - 1).sum())
    variance = np.where(count >= OWN_SPREAD_FROM, squares / np.maximum(count - 1, 1), pooled)
    scores = (target.mean(0) - mean) / np.sqrt(np.maximum(variance, np.finfo(float).tiny))
    return np.where(told, scores, np.nan)

"""Standardisation and ZCA whitening, invertible, fitted on real training images only, and stored with the set.

Both are optional and compose in this order: ``y = W (vec((x - mean) / std) - m)``. DataDAM's released code
standardises and then whitens with eps 0.1; "plain ZCA" whitens the [0, 1] image directly. Whitening is kornia's
:class:`~kornia.enhance.ZCAWhitening` (Krizhevsky, 2009): ``W = U diag(1 / sqrt(s + eps)) U^T`` for the covariance
``U diag(s) U^T``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from atom_plugin.datasets import Split
from atom_plugin.errors import ConfigError

DATADAM_EPS = 0.1
KORNIA_EPS = 1e-6
# What kornia may take to fit a whitening; more images than that are streamed, and of those at most so many.
KORNIA_BYTES, STREAMED_IMAGES = 2**31, 50_000
_PART = 512  # images at a time


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Images on the [0, 1] scale as the nearest 8-bit ones; what lies outside is clamped."""
    return images.clamp(0, 1).mul(255).round().to(torch.uint8)


@dataclass(frozen=True, kw_only=True, eq=False)
class Whitening:
    """A fitted ZCA transform of flattened images: ``mean`` (D,), ``matrix`` (D, D) symmetric, D = C * H * W."""

    mean: torch.Tensor
    matrix: torch.Tensor
    eps: float

    @cached_property
    def inverse_matrix(self) -> torch.Tensor:
        """(D, D), computed in float64 on first use: only pictures and exports need it."""
        inverse: torch.Tensor = torch.linalg.inv(self.matrix.double())
        return inverse.to(self.matrix)

    @classmethod
    def fit(cls, images: torch.Tensor, *, eps: float) -> Whitening:
        """Fit on ``images`` (N, C, H, W), float32. Takes N * D * 12 bytes at its peak, and an SVD of D x D."""
        from kornia.enhance import ZCAWhitening

        _check_eps(eps)
        zca = ZCAWhitening(dim=0, eps=eps, compute_inv=False).fit(images)
        return cls(mean=zca.mean_vector.flatten(), matrix=zca.transform_matrix, eps=eps)

    @classmethod
    def fit_streamed(cls, parts: Callable[[], Iterable[torch.Tensor]], *, eps: float) -> Whitening:
        """As :meth:`fit`, on images that come in parts, float32 (n, C, H, W), twice: for their mean and their covariance.

        The same equations, with sums in float64. Takes 40 * D * D bytes and the D x D eigenvectors, whatever the number
        of images. Raises ConfigError for an ``eps`` that is not above 0.
        """
        _check_eps(eps)
        count, total = 0, torch.zeros(())
        for part in parts():
            count, total = count + len(part), total + part.flatten(1).sum(0, dtype=torch.float64)
        mean = (total / count).float()
        covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
        for part in parts():
            centred = part.flatten(1) - mean
            covariance += centred.T @ centred
        values, vectors = torch.linalg.eigh(covariance.div_(count - 1))
        matrix = (vectors * (values.clamp_min(0) + eps).rsqrt()) @ vectors.T
        return cls(mean=mean, matrix=matrix.float(), eps=eps)


@dataclass(frozen=True, kw_only=True, eq=False)
class Preprocessing:
    """The map from images in [0, 1] to what networks see, and back.

    ``mean`` and ``std`` are (C,), float32; (0, 1) means none. ``whitening`` is None or a fitted ZCA.
    """

    mean: torch.Tensor
    std: torch.Tensor
    image_shape: tuple[int, int, int]
    whitening: Whitening | None = field(default=None)

    @classmethod
    def fit(
        cls,
        images: torch.Tensor | Split,
        *,
        standardise: bool = True,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        zca_eps: float | None = None,
    ) -> Preprocessing:
        """Fit on real training images, uint8 (N, C, H, W), or a source's split of them.

        ``mean`` and ``std`` (on the [0, 1] scale) are computed per channel where not given; a constant channel
        gets std 1. ``zca_eps`` None means no whitening. Moments are exact and take one pass in bounded memory. Whitening is
        kornia's fit on all images while that takes no more than :data:`KORNIA_BYTES`; else the same equations are streamed
        over :data:`STREAMED_IMAGES` of them, evenly spaced.
        """
        split = images if isinstance(images, Split) else Split(images=images, labels=torch.zeros(len(images)).long())
        images = split.images
        channels = images.shape[1]
        if not standardise:
            used_mean, used_std = torch.zeros(channels), torch.ones(channels)
        elif mean is not None and std is not None:
            used_mean, used_std = torch.tensor(list(mean)), torch.tensor(list(std))
        else:
            used_mean, used_std = _moments(split)
        shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
        plain = cls(mean=used_mean, std=used_std, image_shape=shape)
        if zca_eps is None:
            return plain
        if images.numel() * 12 <= KORNIA_BYTES:
            whitening = Whitening.fit(plain.forward(images), eps=zca_eps)
        else:
            used = min(len(images), STREAMED_IMAGES)
            rows = torch.arange(used) * len(images) // used
            whitening = Whitening.fit_streamed(
                lambda: (plain.forward(split.rows(part)) for part in rows.split(_PART)), eps=zca_eps
            )
        return cls(mean=used_mean, std=used_std, image_shape=shape, whitening=whitening)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(..., C, H, W), uint8 in 0..255 or float in [0, 1], to float32 of the same shape."""
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        # One multiply and one add on the way from uint8: no second float copy of the batch.
        weight = (1.0 / (scale * self.std)).view(-1, 1, 1)
        bias = (-self.mean / self.std).view(-1, 1, 1)
        standardised = images.float().mul_(weight).add_(bias) if scale == 255.0 else images.float() * weight + bias
        if self.whitening is None:
            return standardised
        flat = standardised.reshape(-1, self.whitening.mean.numel())
        # W (x - m) = W x - W m, as one fused multiply-add over the batch.
        return torch.addmm(self._whitened_offset, flat, self.whitening.matrix.T).view(images.shape)

    def inverse(self, images: torch.Tensor) -> torch.Tensor:
        """The float32 image on the [0, 1] scale, not clamped: distilled pixels may lie outside."""
        if self.whitening is not None:
            flat = images.reshape(-1, self.whitening.mean.numel())
            images = torch.addmm(self.whitening.mean, flat, self.whitening.inverse_matrix.T).view(images.shape)
        return images * self.std.view(-1, 1, 1) + self.mean.view(-1, 1, 1)

    def to(self, device: torch.device | str) -> Preprocessing:
        """The same on ``device``."""
        whitening = self.whitening
        if whitening is not None:
            whitening = Whitening(mean=whitening.mean.to(device), matrix=whitening.matrix.to(device), eps=whitening.eps)
        return Preprocessing(
            mean=self.mean.to(device),
            std=self.std.to(device),
            image_shape=self.image_shape,
            whitening=whitening,
        )

    def matches(self, other: Preprocessing) -> bool:
        """Whether both map every image to the same values: equal to the last bit, whatever the devices."""
        if (self.whitening is None) != (other.whitening is None) or self.image_shape != other.image_shape:
            return False
        pairs = [(self.mean, other.mean), (self.std, other.std)]
        if self.whitening is not None and other.whitening is not None:
            if self.whitening.eps != other.whitening.eps:
                return False
            pairs += [(self.whitening.mean, other.whitening.mean), (self.whitening.matrix, other.whitening.matrix)]
        return all(torch.equal(mine.cpu(), theirs.cpu()) for mine, theirs in pairs)

    def describe(self) -> str:
        """One line for people."""
        identity = bool((self.mean == 0).all() and (self.std == 1).all())
        steps = [] if identity else [f"standardised (mean {_short(self.mean)}, std {_short(self.std)})"]
        if self.whitening is not None:
            steps.append(f"ZCA whitened (eps {self.whitening.eps:g})")
        return ", then ".join(steps) or "none (images in [0, 1])"

    @cached_property
    def _whitened_offset(self) -> torch.Tensor:
        assert self.whitening is not None
        return -(self.whitening.matrix @ self.whitening.mean)


def _short(values: torch.Tensor) -> str:
    return "/".join(f"{value:.3f}" for value in values.tolist())


def _check_eps(eps: float) -> None:
    if not eps > 0:
        raise ConfigError(f"the ZCA eps must be above 0, not {eps}; DataDAM uses 0.1, kornia 1e-6")


def _moments(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-channel mean and standard deviation on the [0, 1] scale, exact, from a histogram of the 256 levels."""
    channels = split.images.shape[1]
    counts = torch.zeros(channels, 256, dtype=torch.int64)
    for part in split.parts(_PART):
        counts += torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in part.unbind(1)])
    levels = torch.arange(256, dtype=torch.float64) / 255.0
    weights = counts.double() / counts.sum(1, keepdim=True)
    means = (weights * levels).sum(1)
    std = (weights * (levels - means[:, None]).square()).sum(1).sqrt().float()
    return means.float(), torch.where(std > 0, std, torch.ones_like(std))

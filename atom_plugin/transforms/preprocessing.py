"""Standardisation and ZCA whitening, invertible, fitted on real training images only, and stored with the set.

Both are optional and compose in this order: ``y = W (vec((x - mean) / std) - m)``. DataDAM's released code
standardises and then whitens with eps 0.1; "plain ZCA" whitens the [0, 1] image directly. Whitening is kornia's
:class:`~kornia.enhance.ZCAWhitening` (Krizhevsky, 2009): ``W = U diag(1 / sqrt(s + eps)) U^T`` for the covariance
``U diag(s) U^T``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from atom_plugin.datasets import Split
from atom_plugin.errors import ConfigError, require, shape_text
from atom_plugin.runtime.progress import phase
from atom_plugin.transforms.whitening import Whitening, fit_plan

_PART = 512  # images at a time


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Images on the [0, 1] scale rounded to 8 bits; values outside are clamped."""
    return images.clamp(0, 1).mul(255).round().to(torch.uint8)


@dataclass(frozen=True, kw_only=True, eq=False)
class Preprocessing:
    """The map from images in [0, 1] to the networks' input, and its inverse.

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
        """Fit on real training images, uint8 (N, C, H, W), or a source's split.

        ``mean`` and ``std`` (on the [0, 1] scale) are computed per channel if not given; a constant channel gets std 1.
        ``zca_eps`` None means no whitening. Moments are exact and take one pass in bounded memory. The whitening is fitted as
        :func:`~atom_plugin.transforms.whitening.fit_plan` describes. Raises ConfigError for a whitening of fewer than two
        images, or of images too large for this machine.
        """
        if not isinstance(images, Split):
            require("images", images, torch.Tensor)
        split = images if isinstance(images, Split) else Split(images=images, labels=torch.zeros(len(images)).long())
        shape = split.image_shape
        channels = shape[0]
        if not standardise:
            used_mean, used_std = torch.zeros(channels), torch.ones(channels)
        elif mean is not None and std is not None:
            used_mean, used_std = torch.tensor(list(mean)), torch.tensor(list(std))
        else:
            used_mean, used_std = _moments(split)
        plain = cls(mean=used_mean, std=used_std, image_shape=shape)
        if zca_eps is None:
            return plain
        plan = fit_plan(len(split), math.prod(shape), zca_eps)
        rows = torch.arange(plan.images) * len(split) // plan.images
        with phase(f"fitting ZCA on {plan.images:,} images of {shape_text(shape)}"):
            whitening = plan.fit(lambda: (plain.forward(split.rows(part)) for part in rows.split(_PART)))
        return cls(mean=used_mean, std=used_std, image_shape=shape, whitening=whitening)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """As :meth:`forward`."""
        return self.forward(images)

    def __repr__(self) -> str:
        return f"Preprocessing({'x'.join(map(str, self.image_shape))}: {self.describe()})"

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(..., C, H, W), uint8 in 0..255 or float in [0, 1], to float32 of the same shape.

        Raises ConfigError for images of another shape or type, and for tensors that are not dense.
        """
        self._check(images)
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise ConfigError(
                f"found images of type {images.dtype}, expected uint8 in 0..255 or floats in [0, 1]; convert them"
            )
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
        """The inverse of :meth:`forward`: (..., C, H, W) to float32 on the [0, 1] scale, not clamped, since distilled pixels
        may be outside. Raises ConfigError for another shape.
        """
        self._check(images)
        if self.whitening is not None:
            flat = images.reshape(-1, self.whitening.mean.numel())
            images = torch.addmm(self.whitening.mean, flat, self.whitening.inverse_matrix.T).view(images.shape)
        return images * self.std.view(-1, 1, 1) + self.mean.view(-1, 1, 1)

    def to(self, device: torch.device | str) -> Preprocessing:
        """The preprocessing on ``device``."""
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
        """A one-line description."""
        identity = bool((self.mean == 0).all() and (self.std == 1).all())
        steps = [] if identity else [f"standardised (mean {_short(self.mean)}, std {_short(self.std)})"]
        if self.whitening is not None:
            steps.append(f"ZCA whitened (eps {self.whitening.eps:g})")
        return ", then ".join(steps) or "none (images in [0, 1])"

    def _check(self, images: torch.Tensor) -> None:
        require("images", images, torch.Tensor)
        if images.layout != torch.strided or images.is_meta:
            kind = "meta" if images.is_meta else str(images.layout).removeprefix("torch.")
            raise ConfigError(f"found a {kind} tensor of images, expected a dense one; call to_dense() or load it")
        if tuple(images.shape[-3:]) != self.image_shape:
            raise ConfigError(
                f"found images of shape {tuple(images.shape)}, expected (..., "
                f"{', '.join(map(str, self.image_shape))}) as in the images this preprocessing was fitted on; resize "
                "them, or fit another"
            )

    @cached_property
    def _whitened_offset(self) -> torch.Tensor:
        assert self.whitening is not None
        return -(self.whitening.matrix @ self.whitening.mean)


def _short(values: torch.Tensor) -> str:
    return "/".join(f"{value:.3f}" for value in values.tolist())


def _moments(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-channel mean and standard deviation on the [0, 1] scale, exact, from a histogram of the 256 levels."""
    channels = split.image_shape[0]
    counts = torch.zeros(channels, 256, dtype=torch.int64)
    for part in split.parts(_PART):
        counts += torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in part.unbind(1)])
    levels = torch.arange(256, dtype=torch.float64) / 255.0
    weights = counts.double() / counts.sum(1, keepdim=True)
    means = (weights * levels).sum(1)
    std = (weights * (levels - means[:, None]).square()).sum(1).sqrt().float()
    return means.float(), torch.where(std > 0, std, torch.ones_like(std))

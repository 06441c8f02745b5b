"""ZCA whitening: fit it, and predict the memory it takes.

``W = U diag(1 / sqrt(s + eps)) U^T`` for the covariance ``U diag(s) U^T`` of D values (Krizhevsky, 2009), as in kornia's
:class:`~kornia.enhance.ZCAWhitening`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import torch

from atom_plugin.errors import ConfigError
from atom_plugin.runtime.memory import machine_memory

DATADAM_EPS = 0.1  # of standardised images
MTT_EPS = 0.1  # of images in [0, 1]
# What kornia may take to fit a whitening; more images than that are streamed, and of those at most so many.
KORNIA_BYTES, STREAMED_IMAGES = 2**31, 50_000
# From this eps on, what float32 makes of the covariance's zeros (1e-7 of its largest value) does not show in kornia's result.
LOW_RANK_EPS = 1e-3
# LAPACK counts its workspace, 4 D^2 for kornia's SVD and 2 D^2 for eigenvectors, in 32 bits.
_MOST_KORNIA, _MOST_STREAMED = 23_000, 32_000
_ROWS = 1024  # of the matrix at a time
_OPERATIONS_PER_MINUTE = 2.5e11  # of such decompositions, on two cores
_TOLD = 4096  # values an image, above 3 x 32 x 32, from which on the fit is announced

_logger = logging.getLogger("atom_plugin")
Parts = Callable[[], Iterable[torch.Tensor]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Whitening:
    """A fitted ZCA transform of flattened images: ``mean`` (D,), ``matrix`` (D, D) symmetric, D = C * H * W."""

    mean: torch.Tensor
    matrix: torch.Tensor
    eps: float

    @cached_property
    def inverse_matrix(self) -> torch.Tensor:
        """(D, D), computed in float64 on first use: only pictures and exports need it. Raises as :func:`inverted`."""
        return inverted(self.matrix).to(self.matrix)

    @classmethod
    def fit(cls, images: torch.Tensor, *, eps: float) -> Whitening:
        """Kornia's fit on ``images`` (N, C, H, W), float32. Takes N * D * 12 bytes at its peak, and an SVD of D x D."""
        from kornia.enhance import ZCAWhitening

        _check_eps(eps)
        zca = ZCAWhitening(dim=0, eps=eps, compute_inv=False).fit(images)
        return cls(mean=zca.mean_vector.flatten(), matrix=zca.transform_matrix, eps=eps)

    @classmethod
    def fit_streamed(cls, parts: Parts, *, eps: float) -> Whitening:
        """As :meth:`fit`, on images in parts, float32 (n, C, H, W), which are read twice: for mean and covariance.

        The same equations, with sums in float64. Takes 40 * D * D bytes and the D x D eigenvectors, whatever the number of
        images. Raises ConfigError for an ``eps`` that is not above 0.
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

    @classmethod
    def fit_low_rank(cls, parts: Parts, *, eps: float) -> Whitening:
        """As :meth:`fit`, for fewer images than values, without the D x D decomposition.

        With X the N centred images and V diag(s) V^T = X X^T / (N - 1), which is N x N, s are the covariance's values that are
        not 0, and W = 1 / sqrt(eps) - X^T V diag(c) V^T X. In c = 1 / ((N - 1) r q (r + q)) with r = sqrt(s + eps) and
        q = sqrt(eps), nothing cancels. In float64; takes 16 * N * D + 4 * D * D bytes.
        """
        _check_eps(eps)
        images = torch.cat([part.flatten(1) for part in parts()]).double()
        mean = images.mean(0)
        images -= mean
        values, vectors = torch.linalg.eigh(images @ images.T / (len(images) - 1))
        root, least = (values.clamp_min(0) + eps).sqrt(), eps**0.5
        weights = 1 / ((len(images) - 1) * root * least * (root + least))
        factors = (vectors * weights.sqrt()).T @ images
        matrix = torch.empty(len(mean), len(mean))
        for rows, columns in zip(matrix.split(_ROWS), factors.T.split(_ROWS), strict=True):
            rows.copy_(-(columns @ factors))
        matrix.diagonal().add_(1 / least)
        return cls(mean=mean.float(), matrix=matrix, eps=eps)

    def __repr__(self) -> str:
        return f"Whitening({len(self.mean)} values, eps {self.eps:g})"


def inverted(matrix: torch.Tensor) -> torch.Tensor:
    """The inverse of a whitening's ``matrix`` (D, D), float64, finite in float32. Raises ConfigError if there is none."""
    try:
        inverse: torch.Tensor = torch.linalg.inv(matrix.double())
    except RuntimeError:  # LinAlgError, of which torch tells type checkers nothing
        inverse = torch.full((), torch.inf)
    if not bool(inverse.float().isfinite().all()):
        raise ConfigError(
            "the ZCA matrix has no inverse, so images cannot be shown in true colours; a fit never gives this: "
            "restore a copy of the set, or make it again"
        )
    return inverse


@dataclass(frozen=True, kw_only=True)
class FitPlan:
    """How to fit a whitening on ``images`` images: ``way`` is "kornia", "streamed" or "low rank"; ``eps`` as in
    :class:`Whitening`.
    """

    way: str
    images: int
    eps: float

    def fit(self, parts: Parts) -> Whitening:
        """Fit on images in parts, float32 (n, C, H, W), read as often as needed."""
        if self.way == "streamed":
            return Whitening.fit_streamed(parts, eps=self.eps)
        if self.way == "low rank":
            return Whitening.fit_low_rank(parts, eps=self.eps)
        return Whitening.fit(torch.cat(list(parts())), eps=self.eps)


def fit_plan(count: int, size: int, eps: float) -> FitPlan:
    """How to whiten ``count`` images of ``size`` values each on this machine, and a log message for a large one.

    Kornia's fit while its copies of the images take no more than :data:`KORNIA_BYTES`; above, the same equations streamed over
    :data:`STREAMED_IMAGES`; with fewer images than values, if ``eps`` hides float32's rounding, the low-rank form of either.
    Raises ConfigError for fewer than two images, and for sizes beyond this machine's memory or LAPACK's integers.
    """
    _check_eps(eps)
    if count < 2:
        raise ConfigError(f"ZCA needs at least two images for a covariance, found {count}; leave ZCA out (--no-zca)")
    if count < size and eps >= LOW_RANK_EPS and count * size * 12 <= machine_memory() // 2:
        way, used, most, memory = "low rank", count, size, 16 * count * size + 4 * size * size
        operations = 2 * count * size * size + 10 * count**3
    elif count * size * 12 <= KORNIA_BYTES:
        way, used, most, memory = "kornia", count, _MOST_KORNIA, 12 * count * size + 36 * size * size
        operations = 26 * size**3
    else:
        way, used, most, memory = "streamed", min(count, STREAMED_IMAGES), _MOST_STREAMED, 40 * size * size
        operations = 9 * size**3 + used * size * size
    matrix = f"a matrix of {size:,} x {size:,} ({size * size * 4 / 1e9:.1f} GB in memory and in the set's file)"
    # Beside the fit, a set that is being written holds its matrix twice more.
    needed = memory + 8 * size * size
    if size > most or needed > machine_memory():
        why = (
            f"{needed / 1e9:.0f} GB in all, and this machine has {machine_memory() / 1e9:.0f}"
            if needed > machine_memory()
            else f"more than the {most:,} values that its decomposition can count"
        )
        raise ConfigError(
            f"ZCA of images of {size:,} values takes {matrix}, {why}; leave ZCA out (--no-zca), or pass a smaller --image-size"
        )
    if size > _TOLD:
        minutes = operations / _OPERATIONS_PER_MINUTE
        _logger.warning(
            "fitting ZCA: %s, up to %.1f GB meanwhile; some %s",
            matrix,
            memory / 1e9,
            f"{minutes:.0f} minutes" if minutes > 1.5 else "seconds",
        )
    return FitPlan(way=way, images=used, eps=eps)


def _check_eps(eps: float) -> None:
    if not eps > 0:
        raise ConfigError(f"the ZCA eps must be above 0, not {eps}; DataDAM uses 0.1, kornia 1e-6")

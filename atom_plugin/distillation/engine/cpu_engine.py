"""The ConvNet on a CPU: both branches in pieces that stay in cache, a thread each."""

from __future__ import annotations

import torch

from atom_plugin.distillation.engine.cpu_real_branch import stream_statistics
from atom_plugin.distillation.engine.cpu_synthetic_branch import recomputed_statistics
from atom_plugin.distillation.engine.mechanisms import ALL, Mechanisms
from atom_plugin.matchers import MeanMatcher, Statistics
from atom_plugin.models.convnet import ConvNet

# Bytes of the first block's map per piece. benchmarks/pieces.py sweeps it.
PIECE_BYTES = 1 << 24
_WHOLE = 1 << 62


class CpuEngine:
    """See :class:`~atom_plugin.distillation.engine.Engine`; equals the plain engine within rounding.

    ``piece_bytes`` are those of the first block's map of a piece.
    """

    def __init__(self, network: ConvNet, mechanisms: Mechanisms = ALL, *, piece_bytes: int = PIECE_BYTES) -> None:
        self.network = network
        self.features = network.features
        self._mechanisms = mechanisms
        self._piece_bytes = piece_bytes if mechanisms.pieces else _WHOLE

    def real(self, matcher: MeanMatcher, images: torch.Tensor, *, groups: int) -> Statistics:
        """Class means, without any full real map."""
        pieces = self._pieces(images)
        return stream_statistics(
            self.network, matcher, pieces, groups=groups, by_patches=self._mechanisms.patch_moments
        )

    def synthetic(self, matcher: MeanMatcher, images: torch.Tensor, *, groups: int) -> Statistics:
        """Class means, with gradient, in half of autograd's memory."""
        if not self._mechanisms.recomputation:
            return matcher.statistics(self.features(images, groups=groups))
        per_piece = self._images_per_piece(images)
        return recomputed_statistics(self.network, matcher, images, groups=groups, per_piece=per_piece)

    def _pieces(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        images = images.contiguous(memory_format=torch.channels_last)
        pieces: tuple[torch.Tensor, ...] = images.split(self._images_per_piece(images))
        return pieces

    def _images_per_piece(self, images: torch.Tensor) -> int:
        """How many of ``images`` give a first map of a piece's bytes; at least one."""
        per_image = self.network.config.width * images.shape[2] * images.shape[3] * images.element_size()
        return max(1, self._piece_bytes // per_image)

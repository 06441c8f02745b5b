"""What makes a step on a CPU fast, each with a switch: benchmarks/mechanisms.py times the step without it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Mechanisms:
    """Switches of what a run on a CPU does to be fast or small. Results differ by rounding alone.

    Attributes:
        freed_memory: The C library keeps freed memory (:mod:`~atom_plugin.runtime.malloc`).
        pieces: Batches pass through the network in pieces that stay in cache; else whole.
        threads: A thread takes a piece through many operations; else torch splits each operation over its threads.
        winograd: 3x3 convolutions with fewer multiplications in float32 (:mod:`~atom_plugin.models.winograd`).
        patch_moments: The first batch normalisation's moments from the images' 3x3 patches; else from its convolution.
        recomputation: The synthetic branch keeps convolutions alone for the backward pass; else autograd keeps all.
        whitened_images: Whitened real images are kept as floats where they fit; else whitened batch by batch.
    """

    freed_memory: bool = True
    pieces: bool = True
    threads: bool = True
    winograd: bool = True
    patch_moments: bool = True
    recomputation: bool = True
    whitened_images: bool = True


ALL = Mechanisms()

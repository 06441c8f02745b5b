"""Sweep the two piece sizes that keep the CPU step in cache: `python benchmarks/pieces.py`.

Median seconds of the real branch (streaming) and of attention's sums, forward and backward, by the bytes of a piece.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from common import options_of, run_script, surroundings, times

from atom_plugin.distillation.engine.cpu_engine import CpuEngine
from atom_plugin.matchers import MeanMatcher, make_matcher, power_sums
from atom_plugin.models import winograd
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.runtime.malloc import reuse_freed_memory


def real_branch(normalisation: str, *, width: int, count: int) -> Callable[[int], object]:
    """The real branch on ``count`` images, as a function of the bytes of a piece."""
    generator = torch.Generator().manual_seed(0)
    images, atom = torch.randn(count, 3, 32, 32, generator=generator), make_matcher("atom")
    assert isinstance(atom, MeanMatcher)
    network = ConvNetConfig(normalisation=normalisation, width=width).build((3, 32, 32), 10, generator=generator)
    network.to(memory_format=torch.channels_last)
    return lambda size: CpuEngine(network, piece_bytes=size).real(atom, images, groups=10)


def attention_sums(*, width: int) -> Callable[[int], object]:
    """Attention's sums on 100 maps of the first block, forward and backward, as a function of the bytes of a piece."""
    generator = torch.Generator().manual_seed(0)
    feature_map = torch.randn(100, 32, 32, width, generator=generator).permute(0, 3, 1, 2).requires_grad_()

    def run(size: int) -> None:
        power_sums.PIECE_BYTES = size
        torch.stack([s.sum() for s in power_sums.power_sums(feature_map, 4.0, 4.0)]).sum().backward()

    return run


def main(arguments: Sequence[str]) -> dict[str, Any]:
    options = options_of(__doc__, repeats=5, device=False).parse_args(arguments)
    where = surroundings("cpu", options.threads)
    torch.set_num_threads(options.threads)
    width, count, powers = (8, 20, range(20, 22)) if options.quick else (128, 640, range(19, 27))
    runs = {
        "real branch, batch": real_branch("batch", width=width, count=count),
        "real branch, instance": real_branch("instance", width=width, count=count),
        "power sums": attention_sums(width=width),
    }
    kept = power_sums.PIECE_BYTES
    seconds: dict[str, dict[str, float]] = {}
    with reuse_freed_memory(), winograd.enabled():
        for what, run in runs.items():
            sweep = {1 << power: times(lambda: run(1 << power), options.repeats) for power in powers}  # noqa: B023
            seconds[what] = {str(size): statistics.median(values) for size, values in sweep.items()}
    power_sums.PIECE_BYTES = kept
    return {**where, "n": options.repeats, "seconds": seconds}


if __name__ == "__main__":
    run_script(main)

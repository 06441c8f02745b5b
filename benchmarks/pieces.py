"""Sweep the piece size for attention's sums, so that pieces stay in a CPU's cache: `python benchmarks/pieces.py`.

Median seconds of the sums, forward and backward, by the bytes of a piece.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from common import options_of, run_script, surroundings, times

from atom_plugin.matchers import power_sums
from atom_plugin.runtime.malloc import reuse_freed_memory


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
    width, powers = (8, range(20, 22)) if options.quick else (128, range(19, 27))
    runs = {
        "power sums": attention_sums(width=width),
    }
    kept = power_sums.PIECE_BYTES
    seconds: dict[str, dict[str, float]] = {}
    with reuse_freed_memory():
        for what, run in runs.items():
            sweep = {1 << power: times(lambda: run(1 << power), options.repeats) for power in powers}  # noqa: B023
            seconds[what] = {str(size): statistics.median(values) for size, values in sweep.items()}
    power_sums.PIECE_BYTES = kept
    return {**where, "n": options.repeats, "seconds": seconds}


if __name__ == "__main__":
    run_script(main)

"""Sweep the two piece sizes that keep the CPU step in cache: `python benchmarks/pieces.py`.

Prints one JSON line per size: median seconds of the real branch (streaming) or of attention's sums, forward and backward.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import torch

from atom_plugin.matchers import make_matcher, power_sums
from atom_plugin.memory import reuse_freed_memory
from atom_plugin.networks import ConvNetConfig
from atom_plugin.streaming import stream_statistics

REPEATS = 5


def median(run: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(640, 3, 32, 32, generator=generator)
    atom = make_matcher("atom")
    feature_map = torch.randn(100, 32, 32, 128, generator=generator).permute(0, 3, 1, 2).requires_grad_()
    with reuse_freed_memory():
        for normalisation in ("batch", "instance"):
            network = ConvNetConfig(normalisation=normalisation).build((3, 32, 32), 10, generator=generator)
            network.to(memory_format=torch.channels_last)
            for power in range(20, 28):
                seconds = median(
                    lambda: stream_statistics(network, atom, images, groups=10, piece_bytes=1 << power)  # noqa: B023
                )
                print(json.dumps({"what": f"real branch, {normalisation}", "piece_bytes": 1 << power, "s": seconds}))
        for power in range(18, 27):
            power_sums.PIECE_BYTES = 1 << power
            seconds = median(
                lambda: torch.stack([s.sum() for s in power_sums.power_sums(feature_map, 4.0, 4.0)]).sum().backward()
            )
            print(json.dumps({"what": "power sums, forward and backward", "piece_bytes": 1 << power, "s": seconds}))


if __name__ == "__main__":
    main()

"""Parts that the benchmarks share: options, description of the machine, timing, spread, and output.

A benchmark is a script of this folder that prints one JSON object, with ``machine`` and ``versions`` (:func:`surroundings`) and
its measurements, and takes ``--quick`` (tiny sizes, seconds) and, if it supports GPUs, ``--device``. Further content for
docs/performance.md is under ``tables`` (a list of :func:`table`) and ``notes`` (a list of lines). A long benchmark may write
JSON lines to ``--out`` instead. ``benchmarks/run.py`` runs all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from atom_plugin.errors import AtomError
from atom_plugin.models.convnet import ConvNet
from atom_plugin.runtime.device import processor, resolve_device
from atom_plugin.runtime.versions import package_versions

Result = TypeVar("Result")


def options_of(doc: str | None, *, repeats: int, device: bool = True) -> argparse.ArgumentParser:
    """A parser of the options of all benchmarks, with --device if ``device``; ``doc``'s first line describes it."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    if device:
        parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, to test that it works; the results mean nothing"
    )
    return parser


def run_script(main: Callable[[Sequence[str]], dict[str, Any]]) -> None:
    """Print the result of ``main``; an AtomError (a missing device, say) is one line and exit code 1."""
    try:
        result = main(sys.argv[1:])
    except AtomError as error:
        sys.exit(f"Error: {error}")
    print(json.dumps(result, indent=2))


def surroundings(device: str, threads: int) -> dict[str, Any]:
    """``machine`` and ``versions``, for a result. Raises ConfigError for a missing device."""
    kind = resolve_device(device).type
    cpu = processor()
    machine: dict[str, Any] = {"device": cpu, "threads": threads, "cores": os.cpu_count()}
    machine["instructions"] = torch.backends.cpu.get_cpu_capability()
    if kind == "cuda":
        machine |= {"device": torch.cuda.get_device_name(), "cpu": cpu}
    return {"machine": machine, "versions": package_versions()}


def now() -> float:
    """The time in seconds, after a GPU has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(run: Callable[[], object]) -> float:
    """Seconds of one call, a GPU's work included."""
    return clocked(run)[0]


def clocked(run: Callable[[], Result]) -> tuple[float, float, Result]:
    """Seconds by the clock, a GPU's work included; seconds of all processors, which a busy machine leaves alone; the result."""
    start, worked = now(), time.process_time()
    result = run()
    return now() - start, time.process_time() - worked, result


def times(run: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of ``repeats`` calls, after one that warms up."""
    return [timed(run) for _ in range(repeats + 1)][1:]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, extremes and number of the measurements."""
    return {"n": len(values), "median": statistics.median(values), "min": min(values), "max": max(values)}


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> dict[str, Any]:
    """A table for docs/performance.md; numbers are rounded there."""
    return {"title": title, "columns": list(columns), "rows": [list(row) for row in rows]}


def matrix_rate(device: str, side: int = 2048) -> float:
    """GFLOP/s of a large matrix product here, float32 on a CPU, bfloat16 on a GPU: the reference for arithmetic."""
    a = torch.randn(side, side, device=device, dtype=torch.float32 if device == "cpu" else torch.bfloat16)
    out = torch.empty_like(a)
    best = min(timed(lambda: torch.mm(a, a, out=out)) for _ in range(10))
    return 2 * side**3 / best / 1e9


def peak_gigabytes(device: str) -> float:
    """Peak gigabytes of this process; on a GPU, torch's allocations there."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e9
    # VmHWM, not getrusage: Linux lets a child's ru_maxrss begin at its parent's.
    return memory("VmHWM")["VmHWM"] / 1e6


def memory(*names: str) -> dict[str, int]:
    """Fields of /proc/self/status, in kB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(fields[name].split()[0]) for name in names}


def resident() -> dict[str, float]:
    """RssAnon, the process's own memory, and RssFile, pages of files that the system may take back, in MiB."""
    return {name: value / 1024 for name, value in memory("RssAnon", "RssFile").items()}


class Peak(threading.Thread):
    """The highest resident memory between start and :meth:`stop`."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.highest = resident()
        self._stop_asked = threading.Event()

    def run(self) -> None:
        while not self._stop_asked.wait(0.02):
            self.highest = {name: max(value, self.highest[name]) for name, value in resident().items()}

    def stop(self) -> dict[str, float]:
        self._stop_asked.set()
        self.join()
        return self.highest


def plain_features(network: ConvNet, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The maps and the embedding of images (N, C, H, W) with torch's own operations, independent of the package's network.

    For the ConvNet of every recipe: ReLU, average pooling of 2x2.
    """
    maps = []
    for block in network.conv_blocks():
        convolution, normalisation = block.convolution, block.normalisation
        images = F.conv2d(images, convolution.weight, convolution.bias, padding=1)
        if isinstance(normalisation, nn.GroupNorm):
            groups, weight, bias = normalisation.num_groups, normalisation.weight, normalisation.bias
            images = F.group_norm(images, groups, weight, bias, normalisation.eps)
        else:
            images = normalisation(images)
        images = F.relu(images, inplace=True)
        maps.append(images)
        images = F.avg_pool2d(images, 2)
    return maps, images.flatten(1)

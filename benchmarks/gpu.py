"""Everything that docs/performance-gpu.md owes, in one command, under 25 minutes: `python benchmarks/gpu.py --data FILE`.

In this order, one JSON line to --out after each piece, so that an interruption loses nothing of what was done:

1. ceilings: the bandwidth of a copy and the rate of a bfloat16 matrix product;
2. the step at IPC 1, 10 and 50, and at 128 real images per class: ours captured, ours plain, the baseline of step.py; device
   events and the host's clock, peak memory of each, how far the captured losses are from the plain ones;
3. where a captured step's time goes, by kernel;
4. 20 evaluation networks together, 1,000 epochs on an IPC 10 selection, one of them in turn as well;
5. sets by atom, atom-channel, datadam and dm at IPC 10, 8,000 iterations, 5 networks of 1,000 epochs each; then atom and dm at
   IPC 1 and 50 while time is left. The sets are stored beside --out.

The images are CIFAR-10's as a folder, an archive of one, or an .npz file (images.py). A second call goes on after the pieces
that --out holds. `--only NAME` runs the pieces whose names begin so; `--quick` makes everything tiny.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_pieces import DEVICE, Images, ceilings, kernels, set_piece, step_piece, together_piece

from atom_plugin.device import resolve_device
from atom_plugin.errors import AtomError
from atom_plugin.versions import package_versions

Piece = Callable[[], dict[str, Any]]


def pieces(images: Images, folder: Path, quick: bool) -> dict[str, Piece]:
    """By name, in the order of their worth."""
    found: dict[str, Piece] = {"ceilings": ceilings}
    for ipc, real_batch, normalisation in (
        (10, 64, "batch"),
        (1, 64, "batch"),
        (50, 64, "batch"),
        (10, 128, "instance"),
    ):
        found[f"step-ipc{ipc}-real{real_batch}-{normalisation}"] = lambda i=ipc, r=real_batch, n=normalisation: (
            step_piece(i, r, n, quick)
        )
    found["kernels"] = kernels
    found["together"] = lambda: together_piece(images.data(), quick)
    wanted = [(matcher, 10) for matcher in ("atom", "datadam", "dm", "atom-channel")]
    for matcher, ipc in [*wanted, *((matcher, ipc) for ipc in (1, 50) for matcher in ("atom", "dm"))]:
        found[f"set-{matcher}-ipc{ipc}"] = lambda m=matcher, i=ipc: set_piece(images, m, i, folder, quick)
    return found


def finished(out: Path) -> set[str]:
    """The pieces that ``out`` holds; a line cut short by a kill, and one that tells of an error, count for nothing."""
    done = set()
    for line in out.read_text().splitlines() if out.exists() else ():
        try:
            held = json.loads(line)
        except ValueError:
            continue
        if "error" not in held:
            done.add(held["piece"])
    return done


def run_all(found: dict[str, Piece], out: Path, minutes: float) -> None:
    """Run what ``out`` lacks, in order, as long as a piece of its kind fits into what is left of ``minutes``."""
    began, took = time.perf_counter(), {"set": 120.0, "together": 60.0}
    done = finished(out)
    for name, run in found.items():
        kind = name.partition("-")[0]
        left = 60 * minutes - (time.perf_counter() - began)
        if name in done or left < took.get(kind, 0.0):
            print(f"{name}: {'done before' if name in done else f'left out, {left:.0f} s left'}", file=sys.stderr)
            continue
        started = time.perf_counter()
        try:
            result = run()
        except Exception as error:  # the other pieces are worth having
            traceback.print_exc()
            result = {"error": f"{type(error).__name__}: {error}"}
        took[kind] = time.perf_counter() - started
        machine = {"device": torch.cuda.get_device_name(), "cores": os.cpu_count()}
        line = {"piece": name, **result, "piece_seconds": took[kind], "machine": machine}
        with out.open("a") as file:
            file.write("\n" if not _ends_a_line(out) else "")
            file.write(json.dumps({**line, "versions": package_versions()}) + "\n")
        print(f"{name}: {took[kind]:.0f} s", file=sys.stderr, flush=True)


def _ends_a_line(path: Path) -> bool:
    held = path.read_bytes()
    return not held or held.endswith(b"\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", help="CIFAR-10: a folder, an archive of one, or .npz; without it, pieces 4 and 5 are left out"
    )
    parser.add_argument("--out", type=Path, default=Path("gpu-results/gpu.jsonl"))
    parser.add_argument("--minutes", type=float, default=24.0, help="start no piece that would outlast these")
    parser.add_argument("--only", action="append", help="pieces whose names begin with this; may be repeated")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works; no figures to quote")
    given = parser.parse_args()
    try:
        resolve_device(DEVICE)
        images = Images(given.data)
        if given.data is not None:
            images.data()
    except AtomError as error:
        sys.exit(f"Error: {error}")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    found = pieces(images, given.out.parent, given.quick)
    if given.data is None:
        found = {name: run for name, run in found.items() if not name.startswith(("set", "together"))}
    if given.only:
        found = {name: run for name, run in found.items() if name.startswith(tuple(given.only))}
    run_all(found, given.out, given.minutes)


if __name__ == "__main__":
    main()

"""All measurements of docs/performance-gpu.md in one command: `python benchmarks/gpu.py --data FILE --minutes 9`.

In the order of importance, with one JSON line to --out after each piece, so that an interruption loses no finished piece:

1. correctness: how far captured losses are from plain ones, whether bytes repeat;
2. the step at IPC 10, packed and not: captured with kernels of our own and without, plain, plain with compiled features, the
   baseline of step.py; device events and the host's clock, peak memory; where its time goes, by kernel; how long the host
   draws for it; the ceilings of the machine;
3. sets at IPC 10 and 8,000 iterations by the recipes best and atom, five networks of 1,000 epochs on each;
4. 20 evaluation networks together, one of them in turn as well;
5. the step at 128 real images per class, IPC 1 and 50; sets at IPC 1 and 50, and by other matchers, while time is left.

The images are CIFAR-10's as a folder, an archive of one, or an .npz file (images.py). A second call goes on after the pieces
that --out holds; after a piece that fails the others run in a new process. `--only NAME` runs that piece, or all of that kind;
`--quick` makes everything tiny, on a CPU too (`--device cpu`), to see that it works; `--minutes` leaves out what would not fit.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_pieces import STEPS, Bench, Images

from atom_plugin.errors import AtomError
from atom_plugin.runtime import jsonl
from atom_plugin.runtime.device import describe_hardware, resolve_device
from atom_plugin.runtime.versions import package_versions

Piece = Callable[[], dict[str, Any]]
LINES = jsonl.LineFormat(name="a file of GPU measurements", key="piece")


def pieces(images: Images, folder: Path, bench: Bench) -> dict[str, Piece]:
    """By name, in the order of importance."""

    def made(recipe: str, ipc: int, matcher: str = "atom") -> Piece:
        return lambda: bench.make_set(images, folder, recipe=recipe, ipc=ipc, matcher=matcher)

    first, *others = STEPS
    found: dict[str, Piece] = {"correctness": bench.correctness, "ceilings": bench.ceilings}
    found |= {f"step-{name}": partial(bench.step, name) for name in (first, "packed-ipc10")}
    found |= {"kernels": bench.kernels, "draws": bench.draws, "compiled": bench.compiled}
    found |= {f"set-{recipe}-ipc10": made(recipe, 10) for recipe in ("best", "atom")}
    found |= {"together": lambda: bench.together(images.data())}
    found |= {f"step-{name}": partial(bench.step, name) for name in others if name != "packed-ipc10"}
    found |= {f"set-{recipe}-ipc{ipc}": made(recipe, ipc) for ipc in (1, 50) for recipe in ("best", "atom")}
    found |= {f"set-atom-{matcher}-ipc10": made("atom", 10, matcher) for matcher in ("datadam", "dm", "atom-channel")}
    return found


def records(out: Path) -> list[dict[str, Any]]:
    """The lines of ``out``. Raises StoreError for lines that this script did not write."""
    return jsonl.read(out, LINES, dict)


def finished(out: Path) -> set[str]:
    """The finished pieces in ``out``; a line with an error does not count."""
    return {line["piece"] for line in records(out) if "error" not in line}


def note(out: Path, name: str, result: dict[str, Any], seconds: float, device: torch.device) -> None:
    """Add the line of a piece."""
    machine = {"device": describe_hardware(device), "cores": os.cpu_count()}
    line = {"piece": name, **result, "piece_seconds": seconds, "machine": machine, "versions": package_versions()}
    jsonl.append(out, line)
    print(f"{name}: {seconds:.0f} s", file=sys.stderr, flush=True)


def run_all(found: dict[str, Piece], out: Path, minutes: float, device: torch.device) -> bool:
    """Run pieces in order, as long as one of its kind fits into the remaining ``minutes``; False at the first that fails."""
    began, took = time.perf_counter(), {"set": 120.0, "together": 60.0}
    for name, run in found.items():
        kind = name.partition("-")[0]
        left = 60 * minutes - (time.perf_counter() - began)
        if left < took.get(kind, 0.0):
            print(f"{name}: left out, {left:.0f} s left", file=sys.stderr)
            continue
        started = time.perf_counter()
        try:
            result = run()
        except Exception as error:
            traceback.print_exc()
            note(out, name, {"error": f"{type(error).__name__}: {error}"}, time.perf_counter() - started, device)
            return False
        took[kind] = time.perf_counter() - started
        note(out, name, result, took[kind], device)
    return True


def run_apart(
    names: Sequence[str], out: Path, minutes: float, device: torch.device, *, call: Callable[[str, float], int]
) -> None:
    """Run pieces in other processes, a new one after each that failed: after some errors a process cannot use its GPU again.

    ``call`` starts one with names, joined by commas, and minutes, and gives its exit code.
    """
    began, done = time.perf_counter(), finished(out)
    waiting = [name for name in names if name not in done]
    while waiting:
        before, left = len(records(out)), minutes - (time.perf_counter() - began) / 60
        code = call(",".join(waiting), left)
        if code == 0:
            return
        new = records(out)[before:]
        tried = [line["piece"] for line in new]
        if not new or "error" not in new[-1]:  # it died with no word
            under_way = next(name for name in waiting if name not in tried)
            note(out, under_way, {"error": f"the process ended with code {code}"}, 0.0, device)
            tried.append(under_way)
        waiting = waiting[max(map(waiting.index, tried)) + 1 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", help="CIFAR-10: a folder, an archive of one, or .npz; without it, pieces 4 and 5 are left out"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/gpu/gpu.jsonl"))
    parser.add_argument("--minutes", type=float, default=24.0, help="start no piece that would take longer")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu for a dry run with --quick")
    parser.add_argument("--only", action="append", help="this piece, or all of this kind (step, set); may be repeated")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, to test that it works; the results mean nothing"
    )
    parser.add_argument("--inside", help=argparse.SUPPRESS)  # the pieces of one of its processes
    given = parser.parse_args()
    try:
        device = resolve_device(given.device)
        records(given.out)
    except AtomError as error:
        sys.exit(f"Error: {error}")
    if given.data is not None and not Path(given.data).exists():
        sys.exit(f"Error: {given.data}: no such file or folder; give a folder, an archive of one, or an .npz file")
    if device.type == "cpu" and not given.quick:
        sys.exit(
            "Error: on a CPU only --quick is possible, to test that it works; use benchmarks/step.py to measure CPUs"
        )
    given.out.parent.mkdir(parents=True, exist_ok=True)
    found = pieces(Images(given.data), given.out.parent, Bench(given.device, quick=given.quick))
    if given.inside is not None:
        sys.exit(not run_all({name: found[name] for name in given.inside.split(",")}, given.out, given.minutes, device))
    if given.data is None and not given.quick:  # else the digits serve to see that it works
        found = {name: run for name, run in found.items() if not name.startswith(("set", "together"))}
    if given.only:
        kinds = tuple(f"{kind}-" for kind in given.only)
        found = {name: run for name, run in found.items() if name in given.only or name.startswith(kinds)}
    data = ["--data", given.data] if given.data else []
    options = [*data, "--out", str(given.out), "--device", given.device, *(["--quick"] if given.quick else [])]

    def call(names: str, minutes: float) -> int:
        command = [sys.executable, __file__, *options, "--minutes", str(minutes), "--inside", names]
        return subprocess.run(command, check=False).returncode

    run_apart(list(found), given.out, given.minutes, device, call=call)


if __name__ == "__main__":
    main()

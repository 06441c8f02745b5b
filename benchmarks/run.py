"""Measure everything in one go, and render docs/performance.md from it: `python benchmarks/run.py [--device cuda]`.

Each part is a script of this folder (see common.py) in a separate process, so that its peak memory is its own, and a failure
does not stop the others. Figures go to benchmarks/results/performance.json, by device; those of the other device stay. `--only
step,training` measures these parts anew and keeps the others. Parts that take long, or much room on the disk, run where
`--only` names them, or with `--long`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import render
import torch
from common import surroundings

from atom_plugin.errors import AtomError, ConfigError
from atom_plugin.runtime.files import write_bytes

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Part:
    """A script, and how it is called. One that does not exist is left out.

    ``lines``: it writes JSON lines to a file, ``--out``, where others print one object.
    """

    script: str
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] = ("--quick", "--repeats", "1")
    devices: tuple[str, ...] = ("cpu", "cuda")
    takes_device: bool = True
    long: bool = False
    lines: bool = False

    def command(self, device: str, *, quick: bool) -> list[str]:
        on = ("--device", device) if self.takes_device else ()
        return ["python", f"benchmarks/{self.script}", *self.arguments, *on, *(self.quick if quick else ())]


PARTS = {
    "step-ipc1": Part(script="step.py", arguments=("--ipc", "1", "--repeats", "5")),
    "step-ipc10": Part(script="step.py", arguments=("--ipc", "10", "--repeats", "7")),
    "step-ipc50": Part(script="step.py", arguments=("--ipc", "50", "--repeats", "3")),
    # The size that the papers' figures are of.
    "step-ipc10-real128": Part(script="step.py", arguments=("--ipc", "10", "--real-batch", "128"), devices=("cuda",)),
    "breakdown": Part(script="breakdown.py"),
    "training-ipc10": Part(script="training.py", arguments=("--ipc", "10", "--repeats", "5")),
    "training-ipc50": Part(script="training.py", arguments=("--ipc", "50", "--repeats", "3")),
    "mechanisms": Part(script="mechanisms.py", devices=("cpu",)),
    "mechanisms-bfloat16": Part(script="mechanisms.py", arguments=("--precision", "bfloat16"), devices=("cpu",)),
    "pieces": Part(script="pieces.py", arguments=("--repeats", "3"), devices=("cpu",), takes_device=False),
    "together": Part(script="together.py", quick=("--networks", "2", "--epochs", "2")),
    "gpu": Part(script="gpu.py", quick=("--quick",), devices=("cuda",), takes_device=False, long=True, lines=True),
    "processes": Part(script="processes.py", devices=("cpu",), takes_device=False),
    "large": Part(
        script="large.py",
        quick=("--images", "2000", "--classes", "10", "--width", "4", "--steps", "1", "--only", "images", "ipc"),
        long=True,
        lines=True,
    ),
}


def chosen_parts(only: str | None, device: str, *, long: bool = False) -> list[str]:
    """The parts for ``device`` whose scripts exist, or those named in ``only``: whole or before the dash. ConfigError."""
    there = [name for name, part in PARTS.items() if device in part.devices and (HERE / part.script).is_file()]
    if only is None:
        return [name for name in there if long or not PARTS[name].long]
    wanted = only.split(",")
    chosen = [name for name in there if name in wanted or name.partition("-")[0] in wanted]
    if unknown := [name for name in wanted if not any(c == name or c.startswith(f"{name}-") for c in chosen)]:
        raise ConfigError(f"no part for {device} is called {', '.join(unknown)}; known: {', '.join(there)}")
    return chosen


def measure(name: str, device: str, *, quick: bool) -> dict[str, Any]:
    """What the part's script measured, with its command line, date and seconds. Raises ConfigError where it fails."""
    part = PARTS[name]
    command = part.command(device, quick=quick)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        # What took long is not lost where a later piece of it fails.
        out = Path(folder) / "lines" if quick else HERE.parent / "runs" / f"{name}-{device}.jsonl"
        out.parent.mkdir(exist_ok=True)
        called = [
            sys.executable,
            str(HERE.parent / command[1]),
            *command[2:],
            *(["--out", str(out)] if part.lines else []),
        ]
        # Pictures that a part draws of a quick run go with the folder.
        where = folder if quick else HERE.parent
        done = subprocess.run(called, cwd=where, capture_output=True, text=True, check=False)
        result: object = None
        with contextlib.suppress(ValueError, OSError):
            if part.lines:
                result = {"lines": [json.loads(line) for line in out.read_text().splitlines()]}
            else:
                result = json.loads(done.stdout)
    if done.returncode or not isinstance(result, dict):
        last = (done.stderr.strip() or "it gave no JSON object").splitlines()[-1]
        kept = f"; what it measured before is in {out}" if part.lines and not quick else ""
        raise ConfigError(f"{name} failed (exit code {done.returncode}): {last}{kept}")
    if part.lines and not quick:
        out.unlink()
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    about = {"command": shlex.join(command), "date": today, "wall_s": round(time.perf_counter() - started, 1)}
    return about | result


def results_so_far(path: Path | None, device: str, where: Mapping[str, Any], *, keep: bool) -> dict[str, Any]:
    """The figures of ``path``, with room for those of ``device``, whose other parts stay where the machine is the same.

    Raises ConfigError for a file or a place that will not do, and where ``keep`` is asked for on another machine.
    """
    if path is not None and not path.absolute().parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}; create it first")
    try:
        held = json.loads(path.read_text()) if path is not None and path.is_file() else {}
        here = held.setdefault(device, {**where, "parts": {}})
        same = {key: here[key] for key in where} == where
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: holds no results of this script ({error}); give another --out") from error
    if keep and not same:
        raise ConfigError(
            f"{path}: has figures of another machine or of other versions; measure all parts, or give another --out"
        )
    if not same:
        held[device] = {**where, "parts": {}}
    return dict(held)


def run(options: argparse.Namespace, out: Path | None) -> int:
    """Measure, write, and print the table of ratios; the number of parts that failed. Raises ConfigError, StoreError."""
    where = surroundings(options.device, torch.get_num_threads())
    names = chosen_parts(options.only, options.device, long=options.long)
    results = results_so_far(out, options.device, where, keep=options.only is not None)
    failed = 0
    for name in names:
        try:
            part = measure(name, options.device, quick=options.quick)
        except ConfigError as error:
            failed += 1
            print(f"Error: {error}", file=sys.stderr)
            continue
        print(f"{name}: {part['wall_s']} s", file=sys.stderr)
        parts = results[options.device]["parts"] | {name: {key: part[key] for key in part if key not in where}}
        results[options.device]["parts"] = {name: parts[name] for name in PARTS if name in parts}
        if out is not None:
            write_bytes(out, (json.dumps(results, indent=1) + "\n").encode(), force=True)
    if out == render.RESULTS:
        render.write_page()
    if ratios := render.ratios(results[options.device]):
        print(ratios)
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", metavar="PARTS", help=f"some of {', '.join(PARTS)}, joined by commas")
    parser.add_argument("--long", action="store_true", help="the parts that take long, too")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works; no figures to quote")
    parser.add_argument("--out", type=Path, help=f"JSON file  [default: {render.RESULTS.name}, none with --quick]")
    options = parser.parse_args(arguments)
    try:
        return 1 if run(options, options.out or (None if options.quick else render.RESULTS)) else 0
    except AtomError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

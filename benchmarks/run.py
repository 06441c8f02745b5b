"""Measure everything in one go, and render docs/performance.md from it: `python benchmarks/run.py [--device cuda]`.

Each part is a script of this folder (see common.py) in a process of its own: its peak memory is its own, and what fails
does not take the others along. Figures go to benchmarks/results/performance.json, by device; those of the other device
stay. `--only step,training` measures these parts anew and keeps the others.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import render
import torch
from common import surroundings

from atom_plugin.atomic import write_bytes
from atom_plugin.errors import AtomError, ConfigError

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Part:
    """A script, and how it is called. One that does not exist (yet) is left out."""

    script: str
    arguments: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu", "cuda")
    takes_device: bool = True

    def command(self, device: str, *, quick: bool) -> list[str]:
        return [
            *("python", f"benchmarks/{self.script}", *self.arguments),
            *(["--device", device] if self.takes_device else []),
            *(["--quick", "--repeats", "1"] if quick else []),
        ]


PARTS = {
    "step-ipc1": Part(script="step.py", arguments=("--ipc", "1", "--repeats", "5")),
    "step-ipc10": Part(script="step.py", arguments=("--ipc", "10", "--repeats", "7")),
    "step-ipc50": Part(script="step.py", arguments=("--ipc", "50", "--repeats", "3")),
    # The size that the papers' figures are of.
    "step-ipc10-real128": Part(script="step.py", arguments=("--ipc", "10", "--real-batch", "128"), devices=("cuda",)),
    "breakdown": Part(script="breakdown.py"),
    "training-ipc10": Part(script="training.py", arguments=("--ipc", "10", "--repeats", "5")),
    "training-ipc50": Part(script="training.py", arguments=("--ipc", "50", "--repeats", "3")),
    "pieces": Part(script="pieces.py", arguments=("--repeats", "3"), devices=("cpu",), takes_device=False),
    "together": Part(script="together.py"),
    "gpu": Part(script="gpu.py", devices=("cuda",)),
    "processes": Part(script="processes.py", devices=("cpu",), takes_device=False),
    "large": Part(script="large.py"),
}


def chosen_parts(only: str | None, device: str) -> list[str]:
    """The parts for ``device`` whose scripts exist; of ``only``, names or the words before a dash. Raises ConfigError."""
    there = [name for name, part in PARTS.items() if device in part.devices and (HERE / part.script).is_file()]
    if only is None:
        return there
    wanted = only.split(",")
    chosen = [name for name in there if name in wanted or name.partition("-")[0] in wanted]
    if unknown := [name for name in wanted if not any(c == name or c.startswith(f"{name}-") for c in chosen)]:
        raise ConfigError(f"no part for {device} is called {', '.join(unknown)}; known: {', '.join(there)}")
    return chosen


def measure(name: str, device: str, *, quick: bool) -> dict[str, Any]:
    """What the part's script prints, with its command line, date and seconds. Raises ConfigError where it fails."""
    command = PARTS[name].command(device, quick=quick)
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command[1:]],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        result = json.loads(done.stdout)
    except ValueError:
        result = None
    if done.returncode or not isinstance(result, dict):
        last = (done.stderr.strip() or "it printed no JSON object").splitlines()[-1]
        raise ConfigError(f"{name} failed (exit code {done.returncode}): {last}")
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    about = {"command": shlex.join(command), "date": today, "wall_s": round(time.perf_counter() - started, 1)}
    return about | result


def results_so_far(path: Path | None, device: str, where: Mapping[str, Any], *, keep: bool) -> dict[str, Any]:
    """The figures of ``path``; with ``keep`` also those of ``device``. Raises ConfigError where these are another machine's."""
    held: dict[str, Any] = json.loads(path.read_text()) if path is not None and path.is_file() else {}
    here = held.pop(device, None)
    if keep and here is not None:
        if {key: here[key] for key in where} != where:
            raise ConfigError(
                f"{path} has figures of another machine or of other versions; measure all parts, or give another --out"
            )
        held[device] = here
    else:
        held[device] = {**where, "parts": {}}
    return held


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", metavar="PARTS", help=f"some of {', '.join(PARTS)}, joined by commas")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works; no figures to quote")
    parser.add_argument("--out", type=Path, help=f"JSON file  [default: {render.RESULTS.name}, none with --quick]")
    options = parser.parse_args(arguments)
    out = options.out or (None if options.quick else render.RESULTS)
    try:
        where = surroundings(options.device, torch.get_num_threads())
        names = chosen_parts(options.only, options.device)
        results = results_so_far(out, options.device, where, keep=options.only is not None)
    except AtomError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    failed = 0
    for name in names:
        try:
            part = measure(name, options.device, quick=options.quick)
        except ConfigError as error:
            failed += 1
            print(f"Error: {error}", file=sys.stderr)
            continue
        print(f"{name}: {part['wall_s']} s", file=sys.stderr)
        results[options.device]["parts"][name] = {key: value for key, value in part.items() if key not in where}
        if out is not None:
            write_bytes(out, (json.dumps(results, indent=1) + "\n").encode(), force=True)
    if out == render.RESULTS:
        render.write_page()
    print(render.ratios(results[options.device]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

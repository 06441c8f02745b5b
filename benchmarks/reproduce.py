"""Reproduce tables of the papers: make the sets of benchmarks/presets/ with `atom-cli`, and train networks on them.

    python benchmarks/reproduce.py --list                                # ATOM, table 1 on CIFAR-10: done and missing cells
    python benchmarks/reproduce.py --preset atom-table-1/atom --ipc 10   # as printed, 5 sets of 20 networks
    python benchmarks/reproduce.py --preset atom-table-5 --recipe atom --iterations 400 --epochs 300 --seeds 1 --networks 3
    python benchmarks/reproduce.py --dataset folder --data-dir CIFAR --called "CIFAR-10 (JPEG copy)" -- --real-batch 32

    python benchmarks/reproduce.py --preset accuracy --validation 0.1    # choices, measured on held-out training images

Options after `--` go to every `atom-cli distill`; a row's own options have priority over them, and over --iterations and
--epochs. A row as printed uses its paper's recipe; --recipe replaces it, and leaves the paper's loss scale out. Sets, their
checkpoints and the results of single networks are kept in --output, so that a stopped command can continue. A cell is one JSON
line of --results; `python benchmarks/results.py` writes the cells of benchmarks/results/ to docs/results.md and
docs/notes/accuracy.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from presets import Preset, load_presets

from atom_plugin.errors import AtomError
from atom_plugin.runtime import jsonl

Line = dict[str, Any]
LINES = jsonl.LineFormat(name="a file of cells", key="table")
CALLED = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
INTERRUPTED = (130, 143)


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", action="append", metavar="PATTERN", help="default: atom-table-1; may be repeated")
    parser.add_argument("--list", action="store_true", help="show the cells, done and owed, and how a set is made")
    parser.add_argument("--dataset", default="cifar10", help="the image source (default: cifar10)")
    parser.add_argument("--data-dir", help="folder of its files")
    parser.add_argument("--image-size", help="side to resize its images to")
    parser.add_argument("--called", metavar="NAME", help='its name in the tables, e.g. "CIFAR-10 (JPEG copy)"')
    parser.add_argument("--ipc", action="append", help="images per class (default: all printed); may be repeated")
    parser.add_argument("--recipe", help="instead of the papers' (default: as printed)")
    parser.add_argument("--iterations", type=int, help="of distilling a set (default: the recipe's)")
    parser.add_argument("--epochs", type=int, default=1000, help="of training a network (default: 1000)")
    parser.add_argument("--seeds", type=int, default=5, help="sets of a cell (default: 5)")
    parser.add_argument("--networks", type=int, default=20, help="networks on each set (default: 20)")
    parser.add_argument(
        "--validation", help="part of the training images to hold out and measure on (default: test images)"
    )
    parser.add_argument("--device", default="auto", help="default: auto")
    parser.add_argument("--output", type=Path, default=Path("runs/reproduce"), help="default: runs/reproduce")
    parser.add_argument("--results", type=Path, help="default: cells.jsonl in --output")
    parser.add_argument("more", nargs="*", metavar="-- OPTION", help="further options of every `atom-cli distill`")
    given = parser.parse_args(arguments)
    given.results = given.results or given.output / "cells.jsonl"
    given.called = given.called or CALLED.get(given.dataset, given.dataset)
    return given


def flags(options: Mapping[str, Any]) -> list[str]:
    """On a command line: true and false as --name and --no-name, a list as an option that is repeated, None not at all."""
    parts: list[str] = []
    for key, value in options.items():
        name = key.replace("_", "-")
        if isinstance(value, bool):
            parts.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            for each in value if isinstance(value, list) else [value]:
                parts += [f"--{name}", str(each)]
    return parts


def digest(arguments: Sequence[str]) -> str:
    return hashlib.sha256(shlex.join(arguments).encode()).hexdigest()[:8]


def set_command(preset: Preset, ipc: str, seed: int, given: argparse.Namespace) -> list[str]:
    """The arguments of `atom-cli` that make a set, without the output file; in one order, so that tables share their sets."""
    source = {"dataset": given.dataset, "data_dir": given.data_dir, "image_size": given.image_size}
    source |= {"validation": given.validation}
    options = dict(sorted({**preset.options, "ipc": ipc, "seed": seed}.items()))
    if "method" in options:
        return ["select", *flags({**source, **options})]
    if given.recipe and options["recipe"].endswith("-paper"):
        options |= {"recipe": given.recipe, "loss_scale": None}
    return ["distill", *flags({**source, "iterations": given.iterations}), *given.more, *flags(options)]


def set_path(command: Sequence[str], preset: Preset, ipc: str, seed: int, given: argparse.Namespace) -> Path:
    """The file of a set; equal commands share it, also between tables."""
    name = preset.options.get("method") or preset.options["matcher"]
    return given.output / f"{name}-ipc{ipc}-seed{seed}-{digest(command)}.h5"


def atom_cli(*arguments: str) -> str:
    """The output of the command. Raises CalledProcessError."""
    print("$", shlex.join(["atom-cli", *arguments]), file=sys.stderr, flush=True)
    command = [str(Path(sys.executable).with_name("atom-cli")), *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def cells(presets: Sequence[Preset], given: argparse.Namespace) -> Iterator[tuple[Preset, str, list[str]]]:
    """A row at a number of images per class, and the columns of the table that its sets fill."""
    for preset in presets:
        columns, own = preset.columns(given.called.partition(" (")[0]), preset.options.get("ipc")
        if own is None:
            yield from ((preset, ipc, [ipc]) for ipc in given.ipc or columns)
        elif given.ipc is None or str(own) in given.ipc:
            yield preset, str(own), columns


def place(preset: Preset, column: str, given: argparse.Namespace) -> Line:
    """The key of a cell; ``run`` are the options for all rows."""
    run = {"recipe": given.recipe or "as printed", "iterations": given.iterations, "epochs": given.epochs}
    run |= {"sets": given.seeds, "networks": given.networks, "options": shlex.join(given.more)}
    run |= {"validation": given.validation}
    run = {name: value for name, value in run.items() if value}
    return {"table": preset.table, "row": preset.row, "column": column, "data": given.called, "run": run}


def make_sets(preset: Preset, ipc: str, given: argparse.Namespace) -> list[str]:
    """The files of a cell's sets, one per seed; missing ones are made. Raises CalledProcessError."""
    paths = []
    for seed in range(given.seeds):
        command = set_command(preset, ipc, seed, given)
        path = set_path(command, preset, ipc, seed, given)
        if not path.exists():
            resume = ["--resume"] * (command[0] == "distill")
            # Chance needs no device, and says so.
            device = [] if preset.options.get("method") == "random" else ["--device", given.device]
            atom_cli(*command, *resume, *device, "--output", str(path))
        paths.append(str(path))
    return paths


def reproduce(preset: Preset, ipc: str, columns: Sequence[str], given: argparse.Namespace) -> list[Line]:
    """A line for each column whose networks could all be trained. Raises CalledProcessError."""
    import torch
    from common import surroundings

    from atom_plugin import SyntheticSet

    paths = make_sets(preset, ipc, given)
    training = {"epochs": given.epochs, **preset.evaluate}
    results = given.output / f"networks-{digest(flags(training))}.jsonl"  # such a file holds one training
    options = {
        **training,
        "repeats": given.networks,
        "data_dir": given.data_dir,
        "device": given.device,
        "on": "validation" if given.validation else None,
        "results": results,
    }
    trained = json.loads(atom_cli("consume", "evaluate", *paths, *flags(options), "--json"))
    made = SyntheticSet.load(paths[0]).provenance
    about = {
        "selection": preset.options.get("method"),
        "config": made.config,
        "fingerprint": made.source["fingerprint"],
    }
    about |= surroundings(given.device, torch.get_num_threads())
    lines = []
    for column in columns:
        model = column if "models" in preset.evaluate else "convnet"
        entries = [entry for entry in trained if "file" in entry and entry["model"] == model]  # not the pooled one
        if not any(entry["error"] for entry in entries):
            of_networks = {name: entries[0][name] for name in ("training", "network", "precision", "test_images", "on")}
            accuracies = [entry["accuracies"] for entry in entries]
            lines.append({**place(preset, column, given), "accuracies": accuracies, **about, **of_networks})
    return lines


def read_lines(path: Path) -> list[Line]:
    """The cells of a results file; exits if a line is not a cell."""
    try:
        return jsonl.read(path, LINES, dict)
    except AtomError as error:
        sys.exit(f"Error: {error}")


def main(arguments: Sequence[str] | None = None) -> int:
    given = options_of(arguments)
    presets = []
    for pattern in given.preset or ["atom-table-1"]:
        presets += load_presets(pattern) or sys.exit(f"Error: no preset fits {pattern!r}; benchmarks/presets/ has them")
    wanted, held, failed = list(cells(presets, given)), read_lines(given.results), False
    if not wanted:
        sys.exit(f"Error: these presets have no cell for {given.called} at that IPC; give --ipc, or another --called")
    for preset, ipc, columns in wanted:
        done = [
            column for column in columns if any(place(preset, column, given).items() <= line.items() for line in held)
        ]
        if given.list:
            command = shlex.join(["atom-cli", *set_command(preset, ipc, 0, given)])
            print(f"{'done' if done == columns else 'owed'}  {preset.name}, IPC {ipc}: {command}")
            continue
        if done == columns:
            continue
        for folder in (given.output, given.results.parent):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            lines = reproduce(preset, ipc, columns, given)
        except subprocess.CalledProcessError as error:
            if error.returncode in INTERRUPTED:
                return error.returncode
            lines = []
        if len(lines) < len(columns):
            print(f"{preset.name}, IPC {ipc}: some networks failed; continuing", file=sys.stderr)
            failed = True
        for line in lines:
            if line["column"] not in done:
                jsonl.append(given.results, line)
    return int(failed)


if __name__ == "__main__":
    # Ctrl-C reaches atom-cli, too: it writes its checkpoint and says how it ended, and that ends this.
    signal.signal(signal.SIGINT, lambda *_: None)
    sys.exit(main())

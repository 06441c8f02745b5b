"""The continual-learning comparisons of docs/continual-learning.md, one `atom-cli consume replay` after the other.

    python benchmarks/replay.py digits
    python benchmarks/replay.py cifar10 --data-dir CIFAR       # folders train/<class>, test/<class>
    python benchmarks/replay.py tiny100 --data-dir TINY
    python benchmarks/replay.py tiny100 --data-dir TINY --full # the papers' protocol: 5 orders, 3 networks, 1,001 epochs
    python benchmarks/replay.py --full cifar100                # the same on what the papers used

A stopped comparison continues. Results go to OUT/<name>.jsonl, pictures to the same folder; each command prints its table so
far.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

SELECTIONS = ["atom", "random", "herding"]
PACKED = ["atom", "herding", "random", "random-packed"]
PAPER = ["--epochs", "1001", "--orders", "5", "--networks", "3"]


def digits() -> list[tuple[str, list[str], list[str]]]:
    runs = []
    for ipc in (5, 1, 20):
        raw = ["naive", "real-ipc", "real-bytes", "joint"] if ipc == 5 else []
        gdumb = ["gdumb"] if ipc == 5 else []
        common = ["--ipc", str(ipc), "--orders", "3", "--iterations", "300"]
        runs.append((f"digits{ipc}", [*common, "--mode", "replay"], SELECTIONS + raw))
        runs.append((f"digits{ipc}", [*common, "--mode", "from-memory", "--epochs", "60"], SELECTIONS + gdumb))
    return runs


def cifar10() -> list[tuple[str, list[str], list[str]]]:
    common = ["--ipc", "10", "--width", "64", "--orders", "3"]
    return [
        ("cifar10", [*common, "--mode", "replay", "--epochs", "5"], [*PACKED, "real-ipc"]),
        ("cifar10", [*common, "--mode", "from-memory", "--epochs", "300", "--batch-size", "64"], [*PACKED, "gdumb"]),
    ]


def hundred(name: str, *, full: bool) -> list[tuple[str, list[str], list[str]]]:
    small = ["--width", "32", "--epochs", "30", "--iterations", "80", "--real-batch", "32", "--orders", "1"]
    options = ["--ipc", "20", "--mode", "from-memory", *(PAPER if full else small)]
    return [(f"{name}-{steps}", ["--steps", steps, *options], [*SELECTIONS, "dm"]) for steps in ("5", "10")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["digits", "cifar10", "cifar100", "tiny100"])
    parser.add_argument("--data-dir", help="a folder of images by class, in place of the source of that name")
    parser.add_argument("--full", action="store_true", help="the papers' protocol, for tiny100 and cifar100")
    parser.add_argument("--out", type=Path, default=Path("replay-results"))
    given = parser.parse_args()
    if given.what in ("digits", "cifar10") and given.full:
        parser.error("--full is the protocol of the 100-class sets")
    if given.what == "tiny100" and given.data_dir is None:
        parser.error("tiny100 is a folder of images: give --data-dir")
    runs = {"digits": digits, "cifar10": cifar10}.get(given.what, lambda: hundred(given.what, full=given.full))()
    source = ["--dataset", "folder", "--data-dir", given.data_dir] if given.data_dir else ["--dataset", given.what]
    given.out.mkdir(parents=True, exist_ok=True)
    for name, options, policies in runs:
        named = [part for policy in policies for part in ("--policy", policy)]
        command = ["atom-cli", "consume", "replay", *source, *options, *named, "--resume", "-o", str(given.out / name)]
        print("$", " ".join(command), flush=True)
        if code := subprocess.run(command, check=False).returncode:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())

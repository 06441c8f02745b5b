"""Runs many cases in a process of their own, which may hang or die, and prints what was wrong and how it went by kind."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections import defaultdict
from multiprocessing.connection import Connection
from pathlib import Path

import click
from fuzzing.runner import ALL, Found, seeds, sound_files, work

_PATIENCE = 180.0  # seconds until a case counts as one without an end


def _run(base: Path, cases: list[tuple[str, int]]) -> list[Found]:
    """What every case came to; a process that hangs or dies is followed by another, which goes on with the next case."""
    context = multiprocessing.get_context("spawn")
    found: list[Found] = []
    while len(found) < len(cases):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(base, cases[len(found) :], theirs))
        process.start()
        theirs.close()
        ours.recv()  # it has imported what it needs
        while len(found) < len(cases):
            result = _next(ours, cases[len(found)])
            found.append(result)
            _tell(result, len(found))
            if not result.arguments:
                break
        else:
            process.join(_PATIENCE)
        process.kill()
        process.join()
    return found


def _next(results: Connection, case: tuple[str, int]) -> Found:
    try:
        return results.recv() if results.poll(_PATIENCE) else _lost(case, "hangs")
    except EOFError:
        return _lost(case, "dies")


def _lost(case: tuple[str, int], how: str) -> Found:
    return Found(*case, [], 99, f"the process {how}", _PATIENCE, 0)


def _tell(found: Found, number: int) -> None:
    if found.fault:
        click.echo(found)
    if number % 500 == 0:
        click.echo(f"… {number} cases")


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzzing", description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="the first; each case has the next")
    parser.add_argument("--only", default="", help=f"kinds whose names begin so: {', '.join(ALL)}")
    options = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="atom-plugin-fuzz-home-") as home, sound_files() as base:
        os.environ["HOME"] = os.environ["XDG_CACHE_HOME"] = home
        found = _run(base, list(seeds(options.seed, options.cases, options.only)))
    by_kind = defaultdict(list)
    for each in found:
        by_kind[each.kind].append(each)
    click.echo("\n| kind | cases | done | refused | faults | slowest, s | memory, GB |\n|---|---|---|---|---|---|---|")
    for kind, group in sorted(by_kind.items()):
        done, faults = sum(each.code == 0 for each in group), sum(bool(each.fault) for each in group)
        most = f"{max(each.seconds for each in group):.1f} | {max(each.peak for each in group) / 1e9:.2f}"
        click.echo(f"| {kind} | {len(group)} | {done} | {len(group) - done - faults} | {faults} | {most} |")
    faults = sum(bool(each.fault) for each in found)
    click.echo(f"{len(found)} cases, {faults} faults, {time.perf_counter() - start:.0f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(_main())

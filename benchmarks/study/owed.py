"""The commands that fill what a table lacks."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from study.cells import Cell, Table
from study.plan import PAPERS

Line = dict[str, Any]

_SOURCES = {
    "CIFAR-10": "--dataset cifar10",
    "CIFAR-100": "--dataset cifar100",
    "Tiny ImageNet": '--dataset folder --data-dir TINY --image-size 64 --called "Tiny ImageNet"',
}


def owed(table: Table, cells: Sequence[Cell], measured: Sequence[Sequence[Line]]) -> list[str]:
    """Paragraphs: what each group of ``measured`` lines of one protocol lacks, on its own copy of the images; and the papers'
    budget, until one group holds every cell of it. ``cells`` are the table's of one data set."""
    if not cells:
        return []
    if not measured:
        commands = _commands(table, _SOURCES[cells[0].dataset], cells, cells)
        return ["Owed (`--full` for the papers' budget):\n", "\n".join(commands) + "\n"]
    parts = []
    for source in dict.fromkeys(source_of(group[0]) for group in measured):
        mine = [group for group in measured if source_of(group[0]) == source]
        held = {(line["row"], line["column"]) for group in mine for line in group}
        missing = [cell for cell in cells if (cell.row, cell.column) not in held]
        if commands := _commands(table, source, missing, cells):
            parts += ["Owed:\n", "\n".join(commands) + "\n"]
        full = [{(line["row"], line["column"]) for line in group} for group in mine if _full(group[0])]
        if not any(found >= {(cell.row, cell.column) for cell in cells} for found in full):
            parts += ["Owed at the papers' budget:\n", f"    {_script(table, source)} --full\n"]
    return parts


def _commands(table: Table, source: str, missing: Sequence[Cell], cells: Sequence[Cell]) -> Iterable[str]:
    rows: dict[int, list[str]] = {}
    for cell in missing:
        rows.setdefault(cell.ipc, []).append(cell.row)
    commands = []
    for ipc, found in rows.items():
        every = {cell.row for cell in cells if cell.ipc == ipc}
        named = [] if set(found) == every else [f"--row {shlex.quote(row)}" for row in dict.fromkeys(found)]
        commands.append(" ".join([f"    {_script(table, source)} --ipc {ipc}", *named]))
    return commands


def _script(table: Table, source: str) -> str:
    return f"python benchmarks/paper.py {source} --table {table.key}"


def source_of(line: Line) -> str:
    """The options that name the source of a line; a folder's own place is nobody else's."""
    if line["source"]["name"] != "folder":
        return _SOURCES.get(line["dataset"], f"--dataset {line['source']['name']}")
    return f'--dataset folder --data-dir DIR --called "{line["data"]}"'


def _full(line: Line) -> bool:
    protocol = line["protocol"]
    return protocol["steps"] >= 100 if "steps" in protocol else all(protocol[n] >= PAPERS[n] for n in PAPERS)

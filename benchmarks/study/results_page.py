"""docs/results.md, from the JSON lines alone: our figures beside the papers'."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from study.captions import budget, caption, groups
from study.cells import Cell, Table, tables
from study.markdown import grid
from study.order import LEVEL, Comparison, compare

Line = dict[str, Any]

# ATOM's tables 1 and 4, from the top: two methods of one rank are not compared.
CLAIMED = (("atom", "datadam"), ("atom-channel", "datadam"), ("datadam", "dm"), ("dm", "random"))
_SOURCES = {
    "CIFAR-10": "--dataset cifar10",
    "CIFAR-100": "--dataset cifar100",
    "Tiny ImageNet": '--dataset folder --data-dir TINY --image-size 64 --called "Tiny ImageNet"',
}
_HEAD = """# Results beside the papers'

Rendered by `python benchmarks/paper.py render` from `benchmarks/results/paper.jsonl`; do not edit. Test accuracies in %, of
networks after their last epoch, mean ± sample standard deviation over all networks of a cell; "paper" is what ATOM (or DataDAM,
where a table says so) prints. The papers' protocol is 8,000 iterations, five sets and 20 networks on each; how many epochs
a network is trained they do not print. A cell that is "owed" has not been run; its command stands below its table. On
another copy of the images, add `--dataset folder --data-dir DIR --called NAME`.
"""


def render(lines: Sequence[Line]) -> str:
    """The page. Equal lines give equal bytes."""
    parts = [_HEAD, *_order(lines)]
    for table in tables().values():
        parts.append(f"## {table.title}\n")
        if table.note:
            parts.append(f"{table.note}\n")
        for dataset in [*table.datasets, *_foreign(table, lines)]:
            parts += _dataset(table, dataset, [x for x in lines if (x["table"], x["dataset"]) == (table.key, dataset)])
    return "\n".join(parts)


def _foreign(table: Table, lines: Sequence[Line]) -> list[str]:
    seen = dict.fromkeys(line["dataset"] for line in lines if line["table"] == table.key)
    return [name for name in seen if name not in table.datasets]


def _dataset(table: Table, dataset: str, lines: list[Line]) -> list[str]:
    cells = [cell for cell in table.cells if cell.dataset == dataset]
    parts = [f"### {dataset}\n"] if len(table.datasets) > 1 or not cells else []
    for group in groups(lines):
        held = dict.fromkeys(line["column"] for line in group)
        columns = [column for column in table.columns if column in held]
        parts += [f"{caption(group)}\n", _table(table, dataset, columns, group) + "\n"]
    if cells and not lines:
        parts.append(_table(table, dataset, table.columns, []) + "\n")
    return parts + _owed(table, cells, lines)


def _table(table: Table, dataset: str, columns: list[str], lines: list[Line]) -> str:
    ours = {(line["row"], line["column"]): line for line in lines}
    papers = {(cell.row, cell.column): cell for cell in table.cells if cell.dataset == dataset}
    rows = [row for row in table.rows if not lines or any((row, column) in ours for column in columns)]
    body = []
    for row in rows:
        pairs = [(ours.get((row, column)), papers.get((row, column))) for column in columns]
        body.append([row, *(text for line, cell in pairs for text in (here(line), _printed(cell)))])
    heads = ["", *(text for column in columns for text in (f"{column}, here", f"{column}, paper"))]
    return grid(heads, body)


def here(line: Line | None) -> str:
    """Our figure as a table shows it."""
    if line is None:
        return "owed"
    if "steps" in line:
        return f"{line['mean']:,.0f}" if line["std"] is None else f"{line['mean']:.3f} ± {line['std']:.3f}"
    count = sum(map(len, line["accuracies"]))
    spread = f" ± {100 * line['std']:.2f}" if count > 1 else ""
    return f"{100 * line['mean']:.2f}{spread} (n = {count})"


def _printed(cell: Cell | None) -> str:
    return "" if cell is None or cell.paper is None else cell.paper.text.replace("±", " ± ")


def _owed(table: Table, cells: list[Cell], lines: list[Line]) -> list[str]:
    """A command for every column that lacks rows, whatever budget the others had."""
    held = {(line["row"], line["column"]) for line in lines}
    missing: dict[int, list[str]] = {}
    for cell in cells:
        if (cell.row, cell.column) not in held:
            missing.setdefault(cell.ipc, []).append(cell.row)
    commands = []
    for ipc, found in missing.items():
        rows = list(dict.fromkeys(found))
        every = {cell.row for cell in cells if cell.ipc == ipc}
        named = [] if set(rows) == every else [f"--row {shlex.quote(row)}" for row in rows]
        source = _SOURCES[cells[0].dataset]
        commands.append(
            " ".join(["    python benchmarks/paper.py", source, f"--table {table.key} --ipc {ipc}", *named])
        )
    return ["Owed (`--full` for the papers' budget):\n", "\n".join(commands) + "\n"] if commands else []


def _order(lines: Sequence[Line]) -> list[str]:
    """What the measured means say about the order that ATOM's tables 1 and 4 claim, at CIFAR-10, IPC 10."""
    parts = ["## The order at CIFAR-10, IPC 10\n"]
    parts.append(
        "ATOM's tables 1 and 4 claim: atom and atom-channel above datadam, above dm, above random. Differences of means in "
        f"points, with Welch's {LEVEL:.0%} interval; draws are sets where there are several, else networks, whose interval "
        "speaks of those sets only.\n"
    )
    mine = [line for line in lines if (line["table"], line["column"], line["dataset"]) == ("1", "IPC 10", "CIFAR-10")]
    said = [part for group in groups(mine) for part in _verdict(group)]
    return parts + (said or ["Owed: nothing of it was run.\n"])


def _verdict(group: list[Line]) -> list[str]:
    held = {line["row"]: line["accuracies"] for line in group}
    pairs = [compare(a, b, held[a], held[b]) for a, b in CLAIMED if a in held and b in held]
    if not pairs:
        return []
    rows = [[f"{pair.higher} above {pair.lower}", pair.points, pair.verdict] for pair in pairs]
    owed = [f"{a} above {b}" for a, b in CLAIMED if a not in held or b not in held]
    rows += [[name, "owed", "owed"] for name in owed]
    return [
        f"{budget(group)} {_whole(pairs, owed)}\n",
        grid(["claim", "difference (interval)", "verdict"], rows) + "\n",
    ]


def _whole(pairs: list[Comparison], owed: list[str]) -> str:
    verdicts = {pair.verdict for pair in pairs}
    if "refuted" in verdicts:
        wrong = ", ".join(f"{pair.higher} above {pair.lower}" for pair in pairs if pair.verdict == "refuted")
        return f"**The order is refuted** ({wrong})."
    if owed:
        return "**The order is not yet decided**: comparisons are owed."
    if verdicts == {"confirmed"}:
        return "**The order is confirmed.**"
    return "**The order is neither confirmed nor refuted**: not all neighbours can be told apart."

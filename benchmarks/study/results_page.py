"""docs/results.md, from the JSON lines alone: our figures beside the papers'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from study.captions import budget, caption, groups, recipe
from study.cells import Cell, Table, tables
from study.markdown import grid
from study.order import LEVEL, Comparison, compare
from study.owed import owed

Line = dict[str, Any]

# ATOM's tables 1 and 4, from the top: two methods of one rank are not compared.
_THESE = ", of these sets"  # one set per method says nothing of the spread between sets
CLAIMED = (("atom", "datadam"), ("atom-channel", "datadam"), ("datadam", "dm"), ("dm", "random"))
_HEAD = """# Results beside the papers'

Rendered by `python benchmarks/paper.py render` from `benchmarks/results/paper.jsonl`; do not edit. Test accuracies in %, of
networks after their last epoch, mean ± sample standard deviation over all networks of a cell; "paper" is what ATOM (or DataDAM,
where a table says so) prints. The papers' budget is 8,000 iterations, five sets and 20 networks on each; how many epochs
a network is trained they do not print. A cell that is "owed" has not been run; its command stands below its table. Without
`--full` a command makes a reduced run; with it, it takes the papers' budget under this package's own recipe, which is what
does best here; with `--full --recipe as-printed` each row takes all that its paper prints. Cells that a results file holds
are not run again; sets are kept in `--sets DIR` (`paper-sets` in the current folder), and so is every network as it is
trained. On another copy of the images, give `--dataset folder --data-dir DIR --called NAME`.
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
    return parts + owed(table, cells, groups(lines))


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
    one_set = group[0]["protocol"]["sets"] == 1
    told = {"confirmed", "refuted"}
    rows = [
        [
            f"{pair.higher} above {pair.lower}",
            pair.points,
            f"{pair.verdict}{_THESE * (one_set and pair.verdict in told)}",
        ]
        for pair in pairs
    ]
    missing = [f"{a} above {b}" for a, b in CLAIMED if a not in held or b not in held]
    rows += [[name, "owed", "owed"] for name in missing]
    return [
        f"{budget(group)} {_whole(pairs, missing, _THESE * one_set)}\n{recipe(group)}\n",
        grid(["claim", "difference (interval)", "verdict"], rows) + "\n",
    ]


def _whole(pairs: list[Comparison], missing: list[str], where: str) -> str:
    verdicts = {pair.verdict for pair in pairs}
    if "refuted" in verdicts:
        wrong = ", ".join(f"{pair.higher} above {pair.lower}" for pair in pairs if pair.verdict == "refuted")
        return f"**The order is refuted{where}** ({wrong})."
    if missing:
        return "**The order is not yet decided**: comparisons are owed."
    if verdicts == {"confirmed"}:
        return f"**The order is confirmed{where}.**"
    return "**The order is neither confirmed nor refuted**: not all neighbours can be told apart."

"""The papers' tables as data: one :class:`Cell` for every place in a table that this package can fill."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from study.ablations import Ablation, ablations
from study.figures import (
    ARCHITECTURES,
    DATASETS,
    IPCS,
    POWERS,
    STUDIES,
    TABLE_1,
    TABLE_2,
    TABLE_3,
    TABLE_4,
    TABLE_5,
    Figure,
)

SELECTIONS = ("random", "herding", "k-center", "forgetting")
MATCHERS = ("dc", "dsa", "cafe", "dm", "feature", "datadam", "atom-channel", "atom")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One place in one table: what is to be made, how it is judged, and what the paper prints there.

    ``changes`` are keyword arguments of ``DistillConfig.from_recipe`` on top of the run's recipe, ``training`` changes of
    its training; ``printed`` names the recipe of the paper itself, and ``own_recipe`` one without which the method is another
    (DC's loops). ``selection`` is the method that picks real images in place of distilling. ``default_normalisation``: train
    under the run's own, whatever the set was made with. ``measure`` is "accuracy" or "cost". ``dataset`` is the papers' name.
    """

    table: str
    row: str
    column: str
    dataset: str
    ipc: int
    changes: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    selection: str | None = None
    printed: str = "atom-paper"
    own_recipe: str | None = None
    model: str = "convnet"
    default_normalisation: bool = False
    measure: str = "accuracy"
    paper: Figure | None = None

    @property
    def name(self) -> str:
        """For people: table, row, column."""
        return f"table {self.table}, {self.row}, {self.column}"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table's frame; ``rows`` and ``columns`` in the order in which they are shown."""

    key: str
    title: str
    cells: tuple[Cell, ...]
    note: str = ""

    @property
    def rows(self) -> list[str]:
        return list(dict.fromkeys(cell.row for cell in self.cells))

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(cell.column for cell in self.cells))

    @property
    def datasets(self) -> list[str]:
        return list(dict.fromkeys(cell.dataset for cell in self.cells))


def method(name: str) -> dict[str, Any]:
    """The fields of a cell that make it one of ``SELECTIONS`` or ``MATCHERS``."""
    if name in SELECTIONS:
        return {"row": name, "selection": name}
    own = {"dc": "dc-code", "dsa": "dsa-code"}.get(name)
    printed = own or ("datadam-paper" if name == "datadam" else "atom-paper")
    return {"row": name, "changes": {"matcher": name}, "own_recipe": own, "printed": printed}


def _table_1() -> Table:
    cells = [
        Cell(
            table="1",
            column=f"IPC {ipc}",
            dataset=dataset,
            ipc=ipc,
            paper=TABLE_1.get((name, f"{dataset}, IPC {ipc}")),
            **method(name),
        )
        for dataset in DATASETS
        for name in (*SELECTIONS, *MATCHERS)
        for ipc in IPCS
    ]
    note = "The rows feature and atom-channel are table 4's, which ATOM prints at IPC 50 only; cafe stands beside CAFE+DSA."
    return Table(key="1", title="Matchers and selections (ATOM, table 1)", cells=tuple(cells), note=note)


def _table_2() -> Table:
    cells = [
        Cell(
            table="2",
            column=model,
            dataset="CIFAR-10",
            ipc=50,
            model=model,
            paper=TABLE_2.get((name, model)),
            **method(name),
        )
        for name in ("random", *MATCHERS)
        for model in ARCHITECTURES
    ]
    return Table(key="2", title="Other architectures (ATOM, table 2)", cells=tuple(cells))


def _table_3() -> Table:
    cells = [
        Cell(
            table="3",
            column=f"{what}, IPC {ipc}",
            dataset="CIFAR-10",
            ipc=ipc,
            measure="cost",
            paper=TABLE_3.get((name, f"{what}, IPC {ipc}")),
            **method(name),
        )
        for name in MATCHERS
        for what in ("seconds", "MB")
        for ipc in IPCS
    ]
    note = (
        "Seconds per step: mean and standard deviation over the steps; of dc and dsa a step is all that one network takes "
        "part in (1, 10 and 50 matching steps, and its training between them), as the growth of the printed times with IPC "
        "suggests. MB: peak memory; on a GPU what torch allocated for the steps, on a CPU all of the process, libraries and "
        "data included."
    )
    return Table(key="3", title="Time per step and peak memory (ATOM, table 3)", cells=tuple(cells), note=note)


def _ablation(found: Ablation, **fields: Any) -> Cell:
    return Cell(dataset="CIFAR-10", printed=found.recipe, changes=found.changes, **fields)


def _table_4() -> Table:
    names = {"mean embedding alone": "dm", "spatial": "datadam", "both": "atom"}
    cells = []
    for found in ablations("ATOM, table 4"):
        for ipc in (10, 50):
            elsewhere = TABLE_1.get((names.get(found.row, ""), f"CIFAR-10, IPC {ipc}"))
            paper = TABLE_4.get((found.row, f"IPC {ipc}"), elsewhere)
            cells.append(_ablation(found, table="4", row=found.row, column=f"IPC {ipc}", ipc=ipc, paper=paper))
    note = "ATOM prints IPC 50; the figures beside IPC 10 are its table 1's."
    return Table(key="4", title="Loss components (ATOM, table 4)", cells=tuple(cells), note=note)


def _table_5() -> Table:
    cells = []
    for found in ablations("ATOM, table 5"):
        row, column = found.row.split(", ")
        cells.append(_ablation(found, table="5", row=row, column=column, ipc=10, paper=TABLE_5[row, column]))
    assert len(cells) == len(POWERS) ** 2
    return Table(key="5", title="Powers of the two attentions, IPC 10 (ATOM, table 5)", cells=tuple(cells))


# Title, IPC as printed, and rows of our own beside those of docs/recipes.md.
_OWN_BALANCES = {f"{value:g}": {"task_balance": value} for value in (0.001, 0.1, 1.0)}
_STUDIES: dict[str, tuple[str, str, int, Mapping[str, Mapping[str, Any]]]] = {
    "components": ("DataDAM, table 5", "Loss components", 10, {}),
    "layers": ("DataDAM, table 6", "Layers", 10, {}),
    "pixels": ("DataDAM, table 11", "Pixel space", 10, {}),
    "initialisation": ("DataDAM, figure 3", "Initialisation", 50, {}),
    "task-balance": ("DataDAM, figure 4", "Task balance", 10, _OWN_BALANCES),
    "power": ("DataDAM, figure 8", "Power", 10, {}),
    "loss-type": ("DataDAM, figure 12", "Loss type", 10, {}),
    "normalisation": ("DataDAM, figure 13", "Normalisation of attention", 10, {}),
}


def _study(key: str) -> Table:
    source, title, ipc, own = _STUDIES[key]
    found = ablations(source)
    cells = [
        _ablation(row, table=key, row=row.row, column=f"IPC {ipc}", ipc=ipc, paper=STUDIES.get((source, row.row)))
        for row in found
    ]
    cells += [
        replace(cells[0], row=name, changes={"matcher": "datadam", "matcher_options": options}, paper=None)
        for name, options in own.items()
    ]
    plotted = "figure" in source
    note = "The paper shows a plot; beside its own choice stands what its table 1 prints." if plotted else ""
    return Table(key=key, title=f"{title} ({source})", cells=tuple(cells), note=note)


@cache
def tables() -> dict[str, Table]:
    """Every table, by its key on the command line."""
    made = [_table_1(), _table_2(), _table_3(), _table_4(), _table_5(), *map(_study, _STUDIES)]
    return {table.key: table for table in made}


def reduced() -> list[Cell]:
    """The run that two CPU cores can do: IPC 10 for five matchers, IPC 1 for two, selections beside them."""
    chosen = {10: ("atom", "atom-channel", "datadam", "dm", "feature"), 1: ("atom", "dm")}
    first = [
        cell
        for cell in tables()["1"].cells
        if cell.dataset == "CIFAR-10"
        and cell.row in (*chosen.get(cell.ipc, ()), *(SELECTIONS[:3] if cell.ipc < 50 else ()))
    ]
    # The same sets once more, under the names of table 4.
    return first + [cell for cell in tables()["4"].cells if cell.ipc == 10]

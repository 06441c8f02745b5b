"""The command line of `benchmarks/paper.py` and `benchmarks/accuracy.py`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from atom_plugin.cli.options import POSITIVE_INT, key_value_pairs, quiet_option, seed_option, source_options
from atom_plugin.datasets import SourceRequest, load_source
from atom_plugin.distillation.recipes import RECIPES
from atom_plugin.errors import AtomError, ConfigError
from atom_plugin.runtime.files import write_bytes
from study.cells import Cell
from study.costs import measure_costs
from study.journal import read_lines
from study.judge import done, judge
from study.making import make_sets
from study.plan import AS_PRINTED, PAPERS, Job, Run, job
from study.pooled import register
from study.sets import SetFolder, wanted

CALLED = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
FULL = {**PAPERS, "epochs": 1000, "steps": 100}
REDUCED = {"iterations": 1000, "sets": 1, "networks": 3, "epochs": 300, "steps": 20}
STAGES = ("distil", "evaluate")


def script(
    text: str,
    *,
    results: Path,
    page: Path,
    tables: Sequence[str],
    cells: Callable[[tuple[str, ...]], list[Cell]],
    render: Callable[[list[dict[str, Any]]], str],
) -> Callable[[], None]:
    """A script's ``main``. ``cells`` gives those of the tables named; ``render`` makes the page from the lines."""

    @click.command(help=text, context_settings={"help_option_names": ["-h", "--help"]})
    @click.argument("action", type=click.Choice(["run", "list", "render"]), default="run")
    @click.option("--table", "names", type=click.Choice(list(tables)), multiple=True, help="May be repeated.")
    @click.option("--row", "rows", metavar="ROW", multiple=True, help="Only this row; may be repeated.")
    @click.option(
        "--ipc", "ipcs", metavar="N", type=POSITIVE_INT, multiple=True, help="Only this IPC; may be repeated."
    )
    @source_options
    @click.option("--called", metavar="NAME", help='What the tables call the source, say "CIFAR-10 (JPEG copy)".')
    @click.option("--recipe", type=click.Choice([*RECIPES, AS_PRINTED]), default="atom", show_default=True)
    @click.option("--full", is_flag=True, help=f"The papers' budget: {_budget(FULL)}.  [default: {_budget(REDUCED)}]")
    @click.option("--iterations", type=POSITIVE_INT, help="Matching steps of a set.")
    @click.option("--n-sets", "sets", type=POSITIVE_INT, help="Sets per cell, one per seed.")
    @click.option("--networks", type=POSITIVE_INT, help="Networks trained on each set.")
    @click.option("--epochs", type=POSITIVE_INT, help="Epochs of each.")
    @click.option("--steps", type=POSITIVE_INT, help="Timed steps of table 3.")
    @click.option("--option", metavar="KEY=VALUE", multiple=True, callback=key_value_pairs, help=_OPTION)
    @click.option(
        "--training", metavar="KEY=VALUE", multiple=True, callback=key_value_pairs, help="As --option, of training."
    )
    @click.option("--sets", "folder", type=click.Path(path_type=Path), default=Path("paper-sets"), show_default=True)
    @click.option("--results", type=click.Path(path_type=Path), default=results, help="The file of JSON lines.")
    @click.option("--page", type=click.Path(path_type=Path), default=page, help="The page that render writes.")
    @click.option("--only", type=click.Choice(STAGES), help="One stage alone.")
    @click.option(
        "--joint/--one-by-one",
        default=True,
        help="Distil sets that differ in nothing but their synthetic side at once.  [default: joint]",
    )
    @click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
    @seed_option
    @quiet_option
    def command(
        action: str, names: tuple[str, ...], rows: tuple[str, ...], ipcs: tuple[int, ...], **given: Any
    ) -> None:
        if action == "render":
            write_bytes(given["page"], render(read_lines(given["results"])).encode(), force=True)
            return
        picked = [cell for cell in cells(names) if (not rows or cell.row in rows) and (not ipcs or cell.ipc in ipcs)]
        called = _called(given["dataset"], given.pop("called"))
        _work(_of_dataset(picked, called.partition(" (")[0]), called, listing=action == "list", **given)

    def main() -> None:
        register()
        try:
            command()
        except AtomError as error:
            sys.exit(f"Error: {error}")

    return main


_OPTION = "A field of DistillConfig for all cells, of its network as network.FIELD; may be repeated."


def _budget(values: dict[str, int]) -> str:
    return ", ".join(f"{value:,} {name}" for name, value in values.items())


def _called(dataset: str, called: str | None) -> str:
    if called is None and dataset == "folder":
        raise ConfigError('a folder has no name of its own; say what it holds: --called "CIFAR-10 (JPEG copy)"')
    return called or CALLED.get(dataset, dataset)


def _of_dataset(cells: list[Cell], dataset: str) -> list[Cell]:
    """The cells of one data set; those of the first one, with no figure beside them, for a data set that no paper has."""
    known = [cell for cell in cells if cell.dataset == dataset]
    if known or not cells:
        return known
    return [replace(cell, dataset=dataset, paper=None) for cell in cells if cell.dataset == cells[0].dataset]


def _work(
    cells: list[Cell],
    called: str,
    *,
    listing: bool,
    dataset: str,
    request: SourceRequest,
    folder: Path,
    results: Path,
    only: str | None,
    joint: bool,
    device: str,
    quiet: bool,
    **given: Any,
) -> None:
    if not cells:
        raise ConfigError("no cell has that row and IPC; `list` shows those of a table")
    data = load_source(dataset, request)
    run, failed, jobs = _run(given), [], []
    for cell in cells:
        try:
            jobs.append(job(cell, run, data.image_shape))
        except AtomError as error:
            failed.append(f"{cell.name}: {error}")
    folder.mkdir(parents=True, exist_ok=True)
    sets = SetFolder(folder, data)
    judged = [each for each in jobs if each.cell.measure == "accuracy"]
    timed = [each for each in jobs if each.cell.measure == "cost"]
    if listing:
        _list(jobs, sets, results)
        return
    if only != "evaluate":
        failed += make_sets(judged, sets, device=device, joint=joint, quiet=quiet)
    if only != "distil":
        failed += judge(judged, sets, results, dataset=called, device=device)
        failed += measure_costs(timed, data, request, results, dataset=called, device=device)
    for line in failed:
        print(line, file=sys.stderr)
    if failed:
        sys.exit(1)


def _run(given: dict[str, Any]) -> Run:
    budget = {name: given[name] or value for name, value in (FULL if given["full"] else REDUCED).items()}
    changes: dict[str, Any] = {}
    for name, value in given["option"].items():
        group, dot, inner = name.partition(".")
        changes = {**changes, group: {**changes.get(group, {}), inner: value} if dot else value}
    return Run(
        recipe=given["recipe"],
        iterations=budget["iterations"],
        sets=budget["sets"],
        networks=budget["networks"],
        steps=budget["steps"],
        seed=given["seed"],
        changes=changes,
        training={"epochs": budget["epochs"], **given["training"]},
    )


def _list(jobs: list[Job], sets: SetFolder, results: Path) -> None:
    lines = read_lines(results)
    for each in jobs:
        held = sum(want in sets for want in wanted([each]))
        owed = f"owed, {held} of {len(each.configs)} sets made" if each.cell.measure == "accuracy" else "owed"
        click.echo(f"{each.cell.name}: {'done' if done(each, sets.data, lines) else owed}")

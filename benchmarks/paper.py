"""The papers' tables: distil, select, train, and put our figures beside the printed ones in docs/results.md.

\b
    python benchmarks/paper.py run --dataset cifar10                      # the reduced run: an argument, not the protocol
    python benchmarks/paper.py run --dataset folder --data-dir CIFAR --called "CIFAR-10 (JPEG copy)"
    python benchmarks/paper.py run --dataset cifar10 --table 5 --full     # the papers' 8,000 iterations, 5 sets, 20 networks
    python benchmarks/paper.py run --dataset cifar10 --list               # what there is to do, and what is done
    python benchmarks/paper.py render

Sets go to --sets, a JSON line per cell to --results; what is in either is not done again.
"""

from __future__ import annotations

from pathlib import Path

from study.cells import Cell, reduced, tables
from study.command import script
from study.results_page import render

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
RESULTS = Path(__file__).parent / "results" / "paper.jsonl"


def chosen(names: tuple[str, ...]) -> list[Cell]:
    """The cells of the named tables; without a name, those of the reduced run."""
    return [cell for name in names for cell in tables()[name].cells] if names else reduced()


main = script(__doc__ or "", results=RESULTS, page=PAGE, tables=list(tables()), cells=chosen, render=render)

if __name__ == "__main__":
    main()

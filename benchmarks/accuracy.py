"""The accuracy study: the default recipe with one choice changed at a time, at CIFAR-10, IPC 10; docs/accuracy.md.

\b
    python benchmarks/accuracy.py --dataset cifar10
    python benchmarks/accuracy.py --dataset folder --data-dir CIFAR --called "CIFAR-10 (JPEG copy)" --row default
    python benchmarks/accuracy.py list --dataset cifar10                  # the rows, and which are done
    python benchmarks/accuracy.py render

Options, and where things are kept, are those of benchmarks/paper.py.
"""

from __future__ import annotations

from pathlib import Path

from study.accuracy_page import render
from study.command import script
from study.variants import TABLE, cells

PAGE = Path(__file__).parents[1] / "docs" / "accuracy.md"
RESULTS = Path(__file__).parent / "results" / "accuracy.jsonl"

main = script(__doc__ or "", results=RESULTS, page=PAGE, tables=[TABLE], cells=lambda names: cells(), render=render)

if __name__ == "__main__":
    main()

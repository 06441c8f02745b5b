"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from prettytable import PrettyTable, TableStyle


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """First column to the left, the others to the right; heads must differ from one another."""
    drawn = PrettyTable(list(heads))
    drawn.set_style(TableStyle.MARKDOWN)
    drawn.align = "r"
    drawn.align[heads[0]] = "l"
    drawn.add_rows([list(row) for row in rows])
    return drawn.get_string()

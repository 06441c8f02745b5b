"""A table as text: framed for a terminal, or as LaTeX rows (booktabs) with the accompanying lines as comments."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prettytable import PrettyTable

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"$<$",
    ">": r"$>$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def table_text(table: PrettyTable, *, latex: bool = False) -> str:
    """``table`` with a frame of characters, or as a booktabs ``tabular`` with escaped text."""
    if not latex:
        return table.get_string()
    from prettytable import PrettyTable

    escaped = PrettyTable([latex_escaped(name) for name in table.field_names])
    for name in table.field_names:
        escaped.align[latex_escaped(name)] = table.align[name]
    escaped.add_rows([[latex_escaped(cell) for cell in row] for row in table.rows])
    begin, header, *rows, end = escaped.get_latex_string().splitlines()
    return "\n".join([begin, r"\toprule", header, r"\midrule", *rows, r"\bottomrule", end])


def remark(text: str, *, latex: bool = False) -> str:
    """Lines that accompany a table; in LaTeX they are comments."""
    return "\n".join(f"% {line}" if line else "%" for line in text.split("\n")) if latex else text


def latex_escaped(text: object) -> str:
    """``text`` escaped for LaTeX."""
    return "".join(_SPECIAL.get(character, character) for character in str(text))

"""Tables as text, and as rows of LaTeX that compile whatever stands in them."""

from __future__ import annotations

from prettytable import PrettyTable

from atom_plugin.runtime.table_text import latex_escaped, remark, table_text


def table() -> PrettyTable:
    drawn = PrettyTable(["set", "accuracy, %"])
    drawn.align["set"], drawn.align["accuracy, %"] = "l", "r"
    drawn.add_row(["a_b&c.h5", "97.49 ± 0.28"])
    drawn.add_row([r"50 % {x} \y ~ ^ # $ < >", 3])
    return drawn


def test_rows_of_latex() -> None:
    assert table_text(table(), latex=True).split("\n") == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"set & accuracy, \% \\",
        r"\midrule",
        r"a\_b\&c.h5 & 97.49 $\pm$ 0.28 \\",
        r"50 \% \{x\} \textbackslash{}y \textasciitilde{} \textasciicircum{} \# \$ $<$ $>$ & 3 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_a_frame_for_terminals() -> None:
    assert table_text(table()) == table().get_string()


def test_lines_beside_are_comments() -> None:
    assert remark("one\n\ntwo") == "one\n\ntwo"
    assert remark("one\n\ntwo", latex=True) == "% one\n%\n% two"


def test_plain_text_stays() -> None:
    assert latex_escaped("convnet (depth 2), 1.5e-3") == "convnet (depth 2), 1.5e-3"

"""docs/accuracy.md, from the JSON lines alone: what each single change of the default recipe does."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from study.captions import caption, groups
from study.markdown import grid
from study.order import LEVEL, compare
from study.owed import source_of
from study.results_page import here
from study.variants import DEFAULT, TABLE, VARIANTS, Variant, row

Line = dict[str, Any]

_HEAD = f"""# What decides the accuracy

Rendered by `python benchmarks/accuracy.py render` from `benchmarks/results/accuracy.jsonl`; do not edit. CIFAR-10 at IPC 10,
where ATOM prints 57.9 ± 0.7 and DataDAM 54.2 ± 0.8: the recipe with one choice changed at a time, all else equal. "Default" is
the recipe as it was when a table was measured, which stands above the table; what won there may have become the default since
([recipes](recipes.md)), and a new study would start from that. Test accuracies in %, after the last epoch, mean ± sample
standard deviation over networks. The difference is that to the default in points, with Welch's {LEVEL:.0%} interval; draws are
sets where there are several, else networks, whose interval speaks of those sets only. Of twenty comparisons at that level one
is expected to be told apart by chance.

SGD on the images takes the product of loss scale and image learning rate, so the two are one choice.
"""


def render(lines: Sequence[Line]) -> str:
    """The page. Equal lines give equal bytes."""
    mine = [line for line in lines if line["table"] == TABLE]
    parts = [_HEAD]
    for group in groups(mine):
        parts += [f"{caption(group, shared=False)}\n", _table(group) + "\n"]
    return "\n".join(parts + _owed(mine))


def _table(group: Sequence[Line]) -> str:
    held = {line["row"]: line for line in group}
    base = held.get(DEFAULT)
    body = [
        [variant.choice, variant.value, here(held[row(variant)]), *_difference(variant, held[row(variant)], base)]
        for variant in VARIANTS
        if row(variant) in held
    ]
    return grid(["choice", "value", "accuracy", "difference (interval)", "verdict"], body)


def _difference(variant: Variant, line: Line, base: Line | None) -> tuple[str, str]:
    if variant.choice == DEFAULT:
        return "", ""
    if base is None:
        return "owed", "owed"
    if all(line[name] == base[name] for name in ("config", "training", "normalisation")):
        return "", "the default"
    pair = compare(row(variant), DEFAULT, line["accuracies"], base["accuracies"])
    return pair.points, {"confirmed": "better", "refuted": "worse"}.get(pair.verdict, pair.verdict)


def _owed(lines: Sequence[Line]) -> list[str]:
    held = {line["row"] for line in lines}
    missing = [row(variant) for variant in VARIANTS if row(variant) not in held]
    if not missing:
        return []
    named = [f"--row {shlex.quote(name)}" for name in missing] if held else []
    where = source_of(lines[0]) if lines else "--dataset cifar10"
    command = " \\\n      ".join([f"python benchmarks/accuracy.py {where}", *named])
    choices: dict[str, list[str]] = {}
    for variant in VARIANTS:
        if row(variant) in missing:
            choices.setdefault(variant.choice, []).append(variant.value)
    body = [[choice, "; ".join(values)] for choice, values in choices.items()]
    return ["## Owed\n", grid(["choice", "values"], body) + "\n", f"    {command}\n"]

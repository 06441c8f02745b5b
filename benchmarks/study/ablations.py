"""The papers' ablations, read from the table in docs/recipes.md, which is where they are listed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click

from atom_plugin.cli.distill_options import FIELD_OPTIONS, MATCHER_OPTIONS, NETWORK_OPTIONS, recipe_options

_PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
_ROW = re.compile(r"^\| ((?:ATOM|DataDAM),[^|:]*): [^|]* \| ([^|]*) \| `([^`]*)`[^|]* \|$", re.M)


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """``study`` and ``row`` as the page has them, the paper's ``recipe``, and ``changes`` for ``DistillConfig.from_recipe``.

    The changes name the matcher always and the factor on the loss never: they are for any recipe.
    """

    study: str
    row: str
    recipe: str
    changes: Mapping[str, Any]


def ablations(study: str) -> list[Ablation]:
    """The rows of one study, say "ATOM, table 5", in the page's order."""
    return [found for found in _all() if found.study == study]


@cache
def _all() -> list[Ablation]:
    return [_ablation(*found) for found in _ROW.findall(_PAGE.read_text(encoding="utf-8"))]


def _ablation(study: str, row: str, options: str) -> Ablation:
    command = recipe_options(click.command()(lambda **given: given))
    read = command.main(options.split(), standalone_mode=False)
    given = {name: value for name, value in read.items() if value is not None}
    recipe = given["recipe"]
    matcher_options = {**given["matcher_option"], **{k: given[k] for k in MATCHER_OPTIONS if k in given}}
    matcher_options.pop("loss_scale", None)
    changes = {name: given[name] for name in FIELD_OPTIONS if name in given}
    changes.setdefault("matcher", "datadam" if recipe.startswith("datadam") else "atom")
    if matcher_options:
        changes["matcher_options"] = matcher_options
    network = {name: given[name] for name in NETWORK_OPTIONS if name in given}
    return Ablation(study=study, row=row, recipe=recipe, changes=changes | ({"network": network} if network else {}))

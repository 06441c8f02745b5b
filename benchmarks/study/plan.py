"""From a cell and the options of a run to the configs of its sets and the budget of its networks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from typing import Any

from atom_plugin.distillation.config import DistillConfig
from atom_plugin.errors import ConfigError
from atom_plugin.evaluation.training import TrainConfig
from atom_plugin.matchers import make_matcher
from atom_plugin.models.convnet import ConvNetConfig
from study.cells import Cell

AS_PRINTED = "as-printed"
PAPERS = {"iterations": 8000, "sets": 5, "networks": 20}  # the papers' budget
# What tells one selection from another; the rest of a config is the loop's.
_OF_A_SELECTION = ("ipc", "seed", "initialiser", "network", "standardise", "zca_eps", "embedding", "forgetting_epochs")
# Choices that some selections alone have: by name, which.
CHOICES_OF_SELECTIONS = {"embedding": ("herding", "k-center"), "forgetting_epochs": ("forgetting",)}
# What all cells of a table have in common, and its caption says.
SHARED = (
    "real_batch",
    "image_lr",
    "image_momentum",
    "image_schedule",
    "network",
    "augmentation",
    "standardise",
    "zca_eps",
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """The options that hold for all cells of a run.

    ``recipe`` is one of the package's, or ``AS_PRINTED``: each cell's own paper's. ``changes`` are keyword arguments of
    ``DistillConfig.from_recipe``, ``training`` of ``TrainConfig``; a cell's own come on top of both. ``sets`` distillations
    with seeds ``seed``, ``seed + 1``, …, and ``networks`` trained on each; ``steps`` is how many are timed for a cost.
    """

    recipe: str = "atom"
    iterations: int = 1000
    sets: int = 1
    networks: int = 3
    steps: int = 20
    seed: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A cell with all that decides its value. ``protocol`` is what it shares with the cells of its table, as JSON.

    ``normalisation`` is that of the networks trained on the set, None for the set's own.
    """

    cell: Cell
    configs: tuple[DistillConfig, ...]
    training: TrainConfig
    networks: int
    seed: int
    normalisation: str | None
    protocol: Mapping[str, Any]


def job(cell: Cell, run: Run, image_shape: tuple[int, int, int]) -> Job:
    """Raises ConfigError, or PluginError, where the choices do not fit together."""
    try:
        return _job(cell, run, image_shape)
    except TypeError as error:  # a name that the config, its network or the training does not have
        raise ConfigError(f"{error}; give names of DistillConfig, ConvNetConfig and TrainConfig") from None


def _job(cell: Cell, run: Run, image_shape: tuple[int, int, int]) -> Job:
    protocol = _protocol(cell, run, image_shape)
    if cell.measure == "cost":
        return _cost_job(cell, run, image_shape, protocol)
    configs = tuple(_config(cell, run, image_shape, run.seed + number) for number in range(run.sets))
    usual: str = protocol["network"]["normalisation"]
    other = cell.default_normalisation and configs[0].network.normalisation != usual
    return Job(
        cell=cell,
        configs=configs,
        training=_training(run, cell),
        networks=run.networks,
        seed=run.seed,
        normalisation=usual if other else None,
        protocol=protocol,
    )


def _cost_job(cell: Cell, run: Run, image_shape: tuple[int, int, int], protocol: Mapping[str, Any]) -> Job:
    """No network is trained for it: nothing of that is in its line."""
    kept = {
        name: value for name, value in protocol.items() if name not in ("iterations", "sets", "networks", "training")
    }
    return Job(
        cell=cell,
        configs=(_config(cell, run, image_shape, run.seed),),
        training=TrainConfig(),
        networks=0,
        seed=run.seed,
        normalisation=None,
        protocol={**kept, "steps": run.steps},
    )


def _config(cell: Cell, run: Run, image_shape: tuple[int, int, int], seed: int) -> DistillConfig:
    printed = run.recipe == AS_PRINTED
    recipe = cell.own_recipe or (cell.printed if printed else run.recipe)
    changes = merged(run.changes, cell.changes)
    if cell.selection is not None:
        changes["initialiser"] = cell.selection
    elif printed and recipe == cell.printed != cell.own_recipe:
        # The papers print no factor on the loss; a matcher that is not its recipe's own would start from the code's.
        changes["matcher_options"] = {"loss_scale": 1.0, **changes.get("matcher_options", {})}
    for name, methods in CHOICES_OF_SELECTIONS.items():
        if changes.get("initialiser") not in methods:
            changes.pop(name, None)
    if cell.own_recipe is None:
        changes.setdefault("iterations", run.iterations)
    config = DistillConfig.from_recipe(recipe, ipc=cell.ipc, image_shape=image_shape, seed=seed, **changes)
    if cell.own_recipe is None or "iterations" in changes:
        return config
    return replace(config, iterations=_share(config, run.iterations))


def _share(config: DistillConfig, iterations: int) -> int:
    """Of loops of another length, as much as ``iterations`` are of the papers' 8,000, in whole networks."""
    networks = math.ceil(config.iterations * iterations / (PAPERS["iterations"] * config.inner_loop))
    return networks * config.inner_loop


def _training(run: Run, cell: Cell | None = None) -> TrainConfig:
    values = {**run.training, **({} if cell is None else cell.training)}
    return TrainConfig.from_recipe(values.pop("recipe", "standard"), **values)


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Both; where both have one name, the second's, but network and matcher options are merged likewise."""
    both = {**first, **second}
    for name in ("network", "matcher_options"):
        if name in first and name in second:
            both[name] = {**first[name], **second[name]}
    return both


def _protocol(cell: Cell, run: Run, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    own = {"matcher", "matcher_options", *CHOICES_OF_SELECTIONS}
    changes = {name: value for name, value in run.changes.items() if name not in own}
    recipe = "atom-paper" if run.recipe == AS_PRINTED else run.recipe
    base = DistillConfig.from_recipe(recipe, ipc=cell.ipc, image_shape=image_shape, **changes).to_json()
    return {
        "recipe": run.recipe,
        "iterations": run.iterations,
        "sets": run.sets,
        "networks": run.networks,
        "seed": run.seed,
        "training": asdict(_training(run)),
        "changes": dict(run.changes),
        **{name: base[name] for name in SHARED},
    }


def identity(config: Mapping[str, Any], selection: str | None = None) -> str:
    """Equal text for two configs, as JSON of this or an older release, that ask for the same set.

    Unknown names are ignored and missing ones have today's defaults. The recipe does not count, which is only where choices
    came from, nor does the precision: a file holds the one that its machine had. Raises PluginError for an unknown matcher.
    """
    defaults = DistillConfig(ipc=1).to_json()
    known = {**defaults, **{name: value for name, value in config.items() if name in defaults}}
    network = {f.name for f in fields(ConvNetConfig)}
    known["network"] = {**defaults["network"], **{k: v for k, v in known["network"].items() if k in network}}
    if selection is not None:
        known = {name: known[name] for name in _OF_A_SELECTION}
    else:
        del known["recipe"], known["precision"]
        known["matcher_options"] = _all_options(known["matcher"], json.dumps(known["matcher_options"]))
    return json.dumps(_plain(known), sort_keys=True)


@cache  # a matcher is looked up among all installed packages, and a run asks for thousands
def _all_options(matcher: str, options: str) -> Mapping[str, Any]:
    """The matcher's options, those not given with their defaults."""
    return vars(make_matcher(matcher, json.loads(options)))


def training_identity(training: Mapping[str, Any]) -> dict[str, Any]:
    """Equal for two trainings, as JSON of this or an older release, that are the same; the recipe's name does not count."""
    defaults = asdict(TrainConfig())
    known = {**defaults, **{name: value for name, value in training.items() if name in defaults}}
    return {name: value for name, value in known.items() if name != "recipe"}


def _plain(value: Any) -> Any:
    """JSON values with one spelling: numbers as floats, tuples as lists."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

"""The architectures that a search compares: grids over the ConvNet family, and models by name."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from atom_plugin.errors import ConfigError, listed, unknown
from atom_plugin.evaluation import CONVNET, NamedModel, Network
from atom_plugin.evaluation.architectures import named_model
from atom_plugin.models.convnet import ConvNetConfig
from atom_plugin.runtime.toml import read_toml

_MOST = 100_000  # candidates of a grid, which are all made
MODEL = "model"  # the field of candidates that are models by name

GRIDS: Mapping[str, Mapping[str, Sequence[Any]]] = {
    # ATOM's table 6 and DataDAM's table 5.
    "convnet-720": {
        "depth": (1, 2, 3, 4),
        "width": (32, 64, 128, 256),
        "activation": ("sigmoid", "relu", "leakyrelu"),
        "normalisation": ("none", "batch", "layer", "instance", "group"),
        "pooling": ("none", "max", "avg"),
    },
}
"""The named spaces."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One architecture. ``fields`` distinguish it from the others of its space; :meth:`Space.pick` takes its ``name``."""

    fields: Mapping[str, Any]
    network: Network

    @property
    def name(self) -> str:
        """``"depth=3,width=64"``, or the model's name."""
        if isinstance(self.network, NamedModel):
            return self.network.name
        return ",".join(f"{name}={value}" for name, value in self.fields.items())

    @property
    def model(self) -> str:
        """The model's name in results; ConvNets are distinguished by their network."""
        return self.network.name if isinstance(self.network, NamedModel) else CONVNET


@dataclass(frozen=True)
class Space:
    """Candidates under one name, in the order of their search."""

    name: str
    candidates: tuple[Candidate, ...]

    def __len__(self) -> int:
        return len(self.candidates)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self.candidates)

    @classmethod
    def named(cls, name: str) -> Space:
        """One of ``GRIDS``. Raises ConfigError for another name."""
        if name not in GRIDS:
            raise ConfigError(f"{unknown('search space', name, GRIDS)}; or name a TOML file")
        return cls(name, tuple(_grid(GRIDS[name])))

    @classmethod
    def from_toml(cls, path: str | Path) -> Space:
        """The space in a TOML file: a table ``convnet`` with values of fields, a list ``models`` of names, or both.

        Raises ConfigError for other keys, an impossible value, an unknown model, and for an empty space.
        """
        path = Path(path)
        try:
            return cls(path.stem, _described(read_toml(path)))
        except ConfigError as error:
            place = f"{path}: "
            raise ConfigError(f"{'' if str(error).startswith(place) else place}{error}") from error

    def pick(self, conditions: str) -> Space:
        """The candidates that meet all ``conditions``, e.g. ``"depth=3,width=64|128"``: a field's name, and its allowed values.

        Raises ConfigError for a field or a value that no candidate has, and if none meets them all.
        """
        wanted = [_condition(text, self.candidates) for text in conditions.split(",")]
        kept = [each for each in self if all(str(each.fields.get(name)) in values for name, values in wanted)]
        if not kept:
            raise ConfigError(f"no candidate of {self.name} meets {conditions!r}; give fewer conditions")
        return Space(self.name, tuple(kept))

    def sample(self, count: int, *, seed: int = 0) -> Space:
        """``count`` of them, drawn without replacement: the first in an order that ``seed`` and their names determine.

        So a larger sample of the same seed contains a smaller one. Raises ConfigError if there are fewer.
        """
        if not 1 <= count <= len(self):
            raise ConfigError(f"a sample of {count} was asked for, but {self.name} has {len(self)} candidates here")
        order = sorted(self, key=lambda each: hashlib.sha256(f"{seed}/{each.name}".encode()).digest())
        return Space(self.name, tuple(order[:count]))


def _described(table: Mapping[str, Any]) -> tuple[Candidate, ...]:
    if odd := [name for name in table if name not in (CONVNET, "models")]:
        raise ConfigError(unknown("part of a search space", odd[0], (CONVNET, "models")))
    names, choices = table.get("models", []), table.get(CONVNET)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"models must be a list of names, not {names!r}")
    if CONVNET in names:
        raise ConfigError(f"{CONVNET!r} is among the models; describe it in a table [{CONVNET}]")
    if not isinstance(choices, (dict, type(None))):
        raise ConfigError(f"{CONVNET} must be a table of fields and their values, not {choices!r}")
    candidates = [] if choices is None else list(_grid(choices))
    candidates += [Candidate(fields={MODEL: name}, network=named_model(name)) for name in names]
    found = [candidate.name for candidate in candidates]
    if twice := [name for name, count in Counter(found).items() if count > 1]:
        raise ConfigError(f"{twice[0]} is named twice; name it once")
    if not candidates:
        raise ConfigError(f"describes no candidate; give a table [{CONVNET}], or a list of models")
    return tuple(candidates)


def _grid(choices: Mapping[str, Any]) -> Iterator[Candidate]:
    """All combinations, the last field's values changing fastest."""
    known = [each.name for each in fields(ConvNetConfig)]
    if odd := [name for name in choices if name not in known]:
        raise ConfigError(unknown("field of a ConvNet", odd[0], known))
    values = [tuple(each) if isinstance(each, (list, tuple)) else (each,) for each in choices.values()]
    if (count := math.prod(map(len, values))) > _MOST:
        raise ConfigError(f"describes {count:,} ConvNets, expected at most {_MOST:,}; leave values out")
    if not count:
        raise ConfigError("found a field without a value, expected at least one; leave the field out for its default")
    for combination in itertools.product(*values):
        chosen = dict(zip(choices, combination, strict=True))
        yield Candidate(fields=chosen or {"network": "default"}, network=ConvNetConfig(**chosen))


def _condition(text: str, candidates: Sequence[Candidate]) -> tuple[str, list[str]]:
    """The field and the values, as texts, in one condition."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise ConfigError(f"a condition must be FIELD=VALUE or FIELD=VALUE|VALUE, not {text!r}")
    held: dict[str, dict[str, None]] = {}
    for candidate in candidates:
        for field, own in candidate.fields.items():
            held.setdefault(field, {})[str(own)] = None
    if name not in held:
        raise ConfigError(unknown("field of the space", name, held))
    values = [each.strip() for each in value.split("|")]
    if odd := [each for each in values if each not in held[name]]:
        raise ConfigError(f"no candidate has {name}={odd[0]}; {name} is one of {listed(held[name], most=30)}")
    return name, values

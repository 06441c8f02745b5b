"""The record of how a set was made, as stored in its file, and the record of a set made of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from atom_plugin.errors import ConfigError, shown
from atom_plugin.runtime.text import require_text

_KINDS = {"method": str, "seed": int, "config": dict, "source": dict, "versions": dict, "iterations": int}
_WORDS = {str: "a text", int: "a whole number", dict: "an object", list: "a list"}


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How a set was made. All values are plain JSON.

    ``method`` is the matcher's or the selection's name; ``config`` has everything needed to make the set again; ``source``
    names the image source, its options and its fingerprint, so that its test split can be found again; ``versions`` maps
    package to version; ``final_loss`` is None for selected (real) images. Raises ConfigError for a value of another type, and
    in ``config`` and ``source`` if this package reads it.
    """

    method: str
    seed: int
    config: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    iterations: int = 0
    final_loss: float | None = None

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            _require(name, getattr(self, name), kind)
        require_text("method", self.method)
        for package, version in self.versions.items():
            _require(f"versions[{package!r}]", version, str)
        loss = self.final_loss
        if loss is not None and (isinstance(loss, bool) or not isinstance(loss, int | float) or loss - loss != 0):
            raise ConfigError(f"final_loss must be a finite number or None, not {shown(loss)}")
        for name, kind in (("name", str), ("options", dict), ("fingerprint", str)):
            if name in self.source:
                _require(f"source[{name!r}]", self.source[name], kind)
        _check_config(self.config, "config")


PARTS = {"merged": "the parts of a merged set", "extended": "what an extended set grew from"}
"""Keys of a config that list the provenances of other sets, as plain values."""


def _check_config(config: dict[str, Any], where: str) -> None:
    """The network in a config, and the sets that the set was made of."""
    if config.get("network") is not None:
        _require(f"{where}['network']", config["network"], dict)
    for key in config.keys() & PARTS.keys():
        _require(f"{where}[{key!r}]", config[key], list)
        if not config[key]:
            raise ConfigError(f"{where}[{key!r}] must name {PARTS[key]}, not be empty")
        for number, part in enumerate(config[key]):
            _require(f"{where}[{key!r}][{number}]", part, dict)
            _require(f"{where}[{key!r}][{number}]['images']", part.get("images", {}), dict)
            for name, count in part.get("images", {}).items():
                _require(f"{where}[{key!r}][{number}]['images'][{name!r}]", count, int)
            inner = part.get("config", {})
            _require(f"{where}[{key!r}][{number}]['config']", inner, dict)
            _check_config(inner, f"{where}[{key!r}][{number}]['config']")


def _require(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ConfigError(f"{name} must be {_WORDS[kind]}, not {shown(value)}")


def merged_provenance(parts: Sequence[Provenance]) -> Provenance:
    """The provenance of a set made of several: shared values stay, each part's own values are under ``config["merged"]``."""
    first = parts[0]
    return Provenance(
        method=" + ".join(dict.fromkeys(part.method for part in parts)),
        seed=first.seed,
        config={"merged": [asdict(part) for part in parts]},
        source=first.source if all(part.source == first.source for part in parts) else {},
        versions={
            package: version
            for package, version in first.versions.items()
            if all(part.versions.get(package) == version for part in parts)
        },
        iterations=sum(part.iterations for part in parts),
    )

"""The configuration that runs share, as plain JSON, and the differences between two of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from atom_plugin.errors import ConfigError
from atom_plugin.runtime import bounded_json


def check_configs(configs: Iterable[tuple[str, Mapping[str, Any]]], where: str = "") -> dict[str, Mapping[str, Any]]:
    """The one configuration of each mode, by mode. Raises ConfigError if a mode has two, naming the differences."""
    first: dict[str, Mapping[str, Any]] = {}
    for mode, config in configs:
        if first.setdefault(mode, config) != config:
            raise ConfigError(
                f"{where}{mode} runs of two configurations cannot be in one table: "
                f"{differences(first[mode], config)}; give the same options, or keep them in separate files"
            )
    return first


def flat_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings by dotted name: {"network": {"width": 8}} is {"network.width": 8}."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flat_config(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The settings that differ, e.g. "epochs 5 and not 10, lr 0.1 and not absent"."""
    old, new = ({name: json.dumps(value) for name, value in flat_config(c).items()} for c in (found, wanted))
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return ", ".join(f"{name} {old.get(name, 'absent')} and not {new.get(name, 'absent')}" for name in changed)


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``config`` after a JSON round trip (tuples as lists). Raises ConfigError if JSON cannot represent it."""
    try:
        plain = bounded_json.parse(json.dumps(config, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the config of a run must have JSON values: {error}") from None
    if not isinstance(plain, dict):
        raise ConfigError(f"found config {config!r}, expected a dict")
    return dict(plain)

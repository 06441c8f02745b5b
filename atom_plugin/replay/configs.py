"""The configuration that runs share: as plain JSON, and what differs between two of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from atom_plugin.errors import ConfigError
from atom_plugin.runtime import bounded_json


def check_configs(configs: Iterable[tuple[str, Mapping[str, Any]]], where: str = "") -> dict[str, Mapping[str, Any]]:
    """The one configuration of each mode, by mode. Raises ConfigError where a mode has two, naming what differs."""
    first: dict[str, Mapping[str, Any]] = {}
    for mode, config in configs:
        if first.setdefault(mode, config) != config:
            raise ConfigError(
                f"{where}{mode} runs of two configurations cannot stand in one table: {differences(first[mode], config)}; "
                "give the same options, or keep them in files of their own"
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
    """Which settings differ, as "epochs 5 and not 10, lr 0.1 and not absent"."""
    old, new = ({name: json.dumps(value) for name, value in flat_config(c).items()} for c in (found, wanted))
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return ", ".join(f"{name} {old.get(name, 'absent')} and not {new.get(name, 'absent')}" for name in changed)


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``config`` as JSON gives it back (tuples as lists). Raises ConfigError where JSON has no form for it."""
    try:
        plain = bounded_json.parse(json.dumps(config, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the config of a run must hold JSON values: {error}") from None
    if not isinstance(plain, dict):
        raise ConfigError(f"found config {config!r}, expected a dict")
    return dict(plain)

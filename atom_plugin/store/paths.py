"""The folder of a set's images as stored in its file, without the folders of the machine that made it.

In memory ``source["options"]["data_dir"]`` is absolute. A file has it relative to itself, so that the two may move together, or
not at all if the two share only the root: then the relative path would reveal the absolute one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from atom_plugin.store.provenance import PARTS, Provenance

_FOLDER = "data_dir"


def portable(provenance: Provenance, folder: Path) -> Provenance:
    """As stored in a file in ``folder``."""
    return _with_folders(provenance, lambda stored: _relative(stored, folder))


def without_folders(provenance: Provenance) -> Provenance:
    """As stored in another toolkit's file, which may be moved anywhere."""
    return _with_folders(provenance, lambda stored: None)


def located(provenance: Provenance, folder: Path) -> Provenance:
    """As in memory, after reading it from a file in ``folder``."""
    return _with_folders(provenance, lambda stored: os.path.normpath(folder.absolute() / stored))


def _relative(stored: str, folder: Path) -> str | None:
    """``stored`` relative to ``folder``, with slashes; None if it leads over the root, or to another drive."""
    if not Path(stored).is_absolute():
        return stored
    here = str(folder.absolute())
    try:
        shared = Path(os.path.commonpath([stored, here]))
    except ValueError:  # on Windows
        return None
    return None if shared == Path(shared.anchor) else Path(os.path.relpath(stored, here)).as_posix()


def _with_folders(provenance: Provenance, change: Callable[[str], str | None]) -> Provenance:
    """With each folder changed, or removed for None: the set's own, and the folders of the sets that it was made of."""
    return replace(
        provenance, source=_changed(provenance.source, change), config=_changed_config(provenance.config, change)
    )


def _changed_config(config: dict[str, Any], change: Callable[[str], str | None]) -> dict[str, Any]:
    """A config with the folders of the parts that it names, which are provenances as plain values."""
    parts = {
        key: [
            {
                **part,
                "source": _changed(part.get("source"), change),
                "config": _changed_config(part.get("config", {}), change),
            }
            for part in config[key]
        ]
        for key in config.keys() & PARTS.keys()
    }
    return {**config, **parts}


def _changed(source: Any, change: Callable[[str], str | None]) -> Any:
    options = source.get("options") if isinstance(source, Mapping) else None
    if not isinstance(options, Mapping) or not isinstance(options.get(_FOLDER), str):
        return source
    others = {name: value for name, value in options.items() if name != _FOLDER}
    folder = change(options[_FOLDER])
    return {**source, "options": others if folder is None else {**others, _FOLDER: folder}}

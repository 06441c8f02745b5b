"""The rows of the papers' tables, and of docs/notes/accuracy.md, from the files in benchmarks/presets/.

A file's keys are options of `atom-cli distill` by name, or of `atom-cli select` if there is a `method`. Other tables:
`[table]`: the paper's table and row; `[evaluate]`: options of `atom-cli consume evaluate`; `[published]`: the paper's values,
by dataset and column, which is a number of images per class or a model. A file is one row; if it has `[rows]`, each of these is
a row, and adds its keys to the file's.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

if sys.version_info < (3, 11):
    sys.exit("Error: benchmarks/presets/ are TOML files, which Python reads from 3.11 on; take a newer Python")
import tomllib

FOLDER = Path(__file__).parent / "presets"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One row: ``name`` is its file's, with the row if a file has several; ``published`` is by dataset and column."""

    name: str
    table: str
    title: str
    row: str
    options: Mapping[str, Any]
    evaluate: Mapping[str, Any]
    published: Mapping[str, Mapping[str, str]]

    def columns(self, dataset: str) -> list[str]:
        """Its columns in the table: models, its one number of images per class, or those that are printed for ``dataset``."""
        if "models" in self.evaluate:
            return str(self.evaluate["models"]).split(",")
        return [str(self.options["ipc"])] if "ipc" in self.options else list(self.published.get(dataset, {}))


def load_presets(pattern: str = "*") -> list[Preset]:
    """The presets whose file, folder or name fits ``pattern`` ("atom-table-5", "atom-table-1/dm"), in the tables' order."""
    files = {path.relative_to(FOLDER): tomllib.loads(path.read_text("utf-8")) for path in FOLDER.rglob("*.toml")}

    def position(path: Path) -> tuple[str, int, int]:
        kind, number = re.match(r"(\D*)(\d*)", path.parts[0]).groups()  # type: ignore[union-attr] # fits any text
        return kind, int(number or 0), files[path]["table"].get("position", 0)

    found = [preset for path in sorted(files, key=position) for preset in _rows(path.with_suffix(""), files[path])]
    return [preset for preset in found if fnmatch(preset.name, pattern) or preset.name.startswith(f"{pattern}/")]


def _rows(path: Path, held: Mapping[str, Any]) -> list[Preset]:
    table = held["table"]
    label = ", ".join(table[key] for key in ("paper", "name") if key in table)
    found = []
    for row, own in held.get("rows", {table.get("row"): {}}).items():
        options = {**held, **own}
        parts = {part: options.pop(part, {}) for part in ("evaluate", "published", "table", "rows")}
        name = path.as_posix() + (f"/{row}" if parts["rows"] else "")
        evaluate, published = parts["evaluate"], parts["published"]
        preset = Preset(
            name=name,
            table=label,
            title=table["title"],
            row=row,
            options=options,
            evaluate=evaluate,
            published=published,
        )
        found.append(preset)
    return found

"""Properties of sets side by side: a row per property or option, and whether they differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atom_plugin.errors import shape_text
from atom_plugin.runtime.text import printable
from atom_plugin.store import SetHeader
from atom_plugin.store.synthetic_set import SyntheticSet

_NONE = "–"  # noqa: RUF001 - a dash in a table


@dataclass(frozen=True)
class Row:
    """The value of each set for one ``name``."""

    name: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether the sets differ."""
        return len(set(self.values)) > 1


def fact_rows(sets: Sequence[SyntheticSet], headers: Sequence[SetHeader]) -> list[Row]:
    """The properties of the sets: images, method, source, and bytes."""
    return _rows([_facts(held, header) for held, header in zip(sets, headers, strict=True)])


def config_rows(sets: Sequence[SyntheticSet]) -> list[Row]:
    """Every option that made the sets; options of a part have its name and a dot before theirs."""
    return _rows([dict(_flat(held.provenance.config)) for held in sets])


def _rows(columns: Sequence[Mapping[str, str]]) -> list[Row]:
    names = dict.fromkeys(name for column in columns for name in column)
    return [Row(name, tuple(printable(column.get(name, _NONE)) for column in columns)) for name in names]


def _facts(held: SyntheticSet, header: SetHeader) -> dict[str, str]:
    made, count = held.provenance, math.prod(header.shape[1:])
    real = header.shape[0] * held.factor**2 * count  # as many real images, a byte a value
    loss = made.final_loss
    return {
        "method": made.method,
        "images": f"{len(held):,} of {shape_text(header.shape[1:])}",
        "images that networks see": f"{held.decoded_count:,}",
        "classes": f"{len(held.classes):,} of {len(held.class_names):,}",
        "images per class": f"{held.ipc:,}"
        if held.ipc == max(header.counts.values(), default=0)
        else f"{held.ipc:,} or more",
        "stored as": held.storage + (f", packed {held.factor} x {held.factor}" if held.factor > 1 else ""),
        "bytes of the file": f"{header.size:,}",
        "bytes of the images": f"{header.image_bytes:,}",
        "bytes of the soft labels": f"{header.soft_label_bytes:,}" if header.soft_labels else _NONE,
        "bytes of as many real images": f"{real:,}",
        "soft labels": header.soft_labels.kind if header.soft_labels else _NONE,
        "learned learning rate": _NONE if header.learned_lr is None else f"{header.learned_lr:.6g}",
        "preprocessing": held.preprocessing.describe(),
        "source": str(made.source.get("name", _NONE)),
        "fingerprint of the source": str(made.source.get("fingerprint", _NONE))[:16],
        "iterations": f"{made.iterations:,}",
        "final loss": _NONE if loss is None else f"{loss:.6g}",
        "seed": str(made.seed),
        "made with": ", ".join(f"{package} {version}" for package, version in made.versions.items()) or _NONE,
        "sha256": f"{header.checksum[:16]}…",
    }


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _NONE if value is None else str(value)

"""What made a set: the record that stands in its file, and that of a set made of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What made a set. All values are plain JSON.

    ``method`` is the matcher's or the selection's name; ``config`` everything needed to make the set again;
    ``source`` names the image source, its options and its fingerprint, so that its test split can be found again;
    ``versions`` maps package to version; ``final_loss`` is None for selected (real) images.
    """

    method: str
    seed: int
    config: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    iterations: int = 0
    final_loss: float | None = None


def merged_provenance(parts: Sequence[Provenance]) -> Provenance:
    """Of a set made of several: what all share stays, each part's own stands under ``config["merged"]``."""
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

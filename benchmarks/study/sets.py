"""The sets behind the cells, and the folder where they lie."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from atom_plugin import store
from atom_plugin.datasets import SourceData
from atom_plugin.distillation.config import DistillConfig
from atom_plugin.errors import AtomError
from atom_plugin.store.synthetic_set import SyntheticSet
from study.plan import Job, identity


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One set that some cell needs; ``selection`` as in a cell."""

    config: DistillConfig
    selection: str | None

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.selection or self.config.matcher}, IPC {self.config.ipc}, seed {self.config.seed}"

    @property
    def key(self) -> str:
        """Equal for two that are the same set."""
        return f"{self.selection or ''} {identity(self.config.to_json(), self.selection)}"


def wanted(jobs: Iterable[Job]) -> list[Wanted]:
    """The sets of ``jobs``, each once."""
    each = [Wanted(config=config, selection=job.cell.selection) for job in jobs for config in job.configs]
    return list({want.key: want for want in each}.values())


class SetFolder:
    """The sets in a folder that were made from ``data``, whatever their names.

    A file counts for a config if its provenance holds an equal one and all its iterations were done. Other files, and sets
    of other images, are passed over.
    """

    def __init__(self, folder: Path, data: SourceData) -> None:
        self.folder = folder
        self.data = data
        self._found: dict[str, Path] = {}
        for path in sorted(folder.glob("*.h5")):
            try:
                self._note(path)
            except AtomError as error:
                print(f"{path}: passed over: {error}", file=sys.stderr)

    def _note(self, path: Path) -> None:
        provenance = store.read_header(path).provenance
        config = provenance.config
        if "ipc" not in config or provenance.source.get("fingerprint") != self.data.fingerprint:
            return
        selection = provenance.method if provenance.method == config.get("initialiser") else None
        if selection is None and provenance.iterations != config.get("iterations"):
            return
        self._found[f"{selection or ''} {identity(config, selection)}"] = path

    def find(self, want: Wanted) -> SyntheticSet | None:
        """The set, or None where there is none yet."""
        path = self._found.get(want.key)
        return None if path is None else store.read(path)

    def __contains__(self, want: Wanted) -> bool:
        return want.key in self._found

    def add(self, want: Wanted, made: SyntheticSet) -> None:
        path = self.path(want)
        store.write(made, path, force=True)
        self._found[want.key] = path

    def path(self, want: Wanted) -> Path:
        """Where a set of ours goes: a name for people, and a digest that tells equal names apart."""
        method = want.selection or want.config.matcher
        digest = hashlib.sha256((want.key + self.data.fingerprint).encode()).hexdigest()[:8]
        return self.folder / f"{method}-ipc{want.config.ipc}-seed{want.config.seed}-{digest}.h5"

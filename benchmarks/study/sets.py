"""Stage 1: the sets behind the cells, found in a folder or made there."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from atom_plugin import store
from atom_plugin.assembly import fit_preprocessing, selected_set
from atom_plugin.cli.interrupts import stop_requests
from atom_plugin.config import DistillConfig
from atom_plugin.distillation import Progress, distill
from atom_plugin.errors import AtomError, StoreError
from atom_plugin.preprocessing import Preprocessing
from atom_plugin.sources import SourceData
from atom_plugin.synthetic_set import SyntheticSet
from study.plan import Job, identity


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One set that some cell needs; ``selection`` as in a cell."""

    config: DistillConfig
    selection: str | None

    @property
    def key(self) -> str:
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


def make_sets(jobs: Iterable[Job], folder: SetFolder, *, device: str, quiet: bool) -> list[str]:
    """Make what is missing, preprocessing fitted once for all sets that share it; returns a line for each that failed."""
    missing = [want for want in wanted(jobs) if want not in folder]
    failed = []
    for preprocessing, group in _by_preprocessing(missing, folder.data):
        for want in group:
            print(
                f"{want.selection or want.config.matcher}, IPC {want.config.ipc}, seed {want.config.seed}",
                file=sys.stderr,
            )
            try:
                folder.add(want, _make(want, folder, preprocessing, device=device, quiet=quiet))
            except StoreError:
                raise
            except AtomError as error:
                failed.append(f"{want.selection or want.config.matcher}, IPC {want.config.ipc}: {error}")
    return failed


def _by_preprocessing(missing: list[Wanted], data: SourceData) -> Iterator[tuple[Preprocessing, list[Wanted]]]:
    groups: dict[tuple[bool, float | None], list[Wanted]] = {}
    for want in missing:
        groups.setdefault((want.config.standardise, want.config.zca_eps), []).append(want)
    for group in groups.values():
        yield fit_preprocessing(group[0].config, data), group


def _make(want: Wanted, folder: SetFolder, preprocessing: Preprocessing, *, device: str, quiet: bool) -> SyntheticSet:
    """One set, selected or distilled; a stopped distillation goes on from its checkpoint."""
    if want.selection is not None:
        return selected_set(want.config, folder.data, preprocessing=preprocessing)
    checkpoint = folder.path(want).with_suffix(".checkpoint")
    with tqdm(total=want.config.iterations, disable=quiet, unit="step") as bar, stop_requests() as stop_signal:

        def show(progress: Progress) -> None:
            bar.update(progress.iteration - bar.n)

        made = distill(
            want.config,
            folder.data,
            device=device,
            preprocessing=preprocessing,
            checkpoint=checkpoint,
            resume=True,
            on_progress=show,
            stop_signal=stop_signal,
        )
    checkpoint.unlink(missing_ok=True)
    return made

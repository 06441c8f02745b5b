"""Which runs a comparison has, and the files that it leaves: results, picture, and a folder of memories and states."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.replay.configs import differences, plain_config
from atom_plugin.replay.results import ResultsFile
from atom_plugin.runtime.files import refuse_existing, write_bytes

BASELINES = {
    "real-ipc": "replay",
    "real-bytes": "replay",
    "gdumb": "from-memory",
    "naive": "replay",
    "joint": "replay",
}
"""The baselines and the one mode that each runs in, whatever mode is asked for."""

_MEMORIES = "memories"  # in the record, beside the modes


class Run(NamedTuple):
    """One run of a comparison."""

    policy: str
    mode: str
    order: int
    network: int


def plan_runs(policies: Sequence[str], modes: Sequence[str], orders: int, networks: int) -> list[Run]:
    """All runs, those of one class order together, so that its stream is prepared once; a baseline in its own mode only."""
    pairs = [
        (policy, mode)
        for policy in policies
        for mode in ([BASELINES[policy]] if policy in BASELINES else dict.fromkeys(modes))
    ]
    return [
        Run(policy, mode, order, network)
        for order, (policy, mode), network in itertools.product(range(orders), pairs, range(networks))
    ]


@dataclass(frozen=True)
class ResultFiles:
    """Where the parts of a comparison go: beside each other, under one prefix. Raises ConfigError for one without a name."""

    prefix: Path

    def __post_init__(self) -> None:
        if self.prefix.name in ("", ".."):
            raise ConfigError(
                f"the prefix {str(self.prefix)!r} has no name to put .jsonl behind; give one, e.g. -o runs/mine"
            )

    @property
    def results(self) -> Path:
        """One JSON line per finished run."""
        return self._with(".jsonl")

    @property
    def picture(self) -> Path:
        """The curves."""
        return self._with(".png")

    @property
    def folder(self) -> Path:
        """The memories' sets, and the states of unfinished runs."""
        return self._with(".memory")

    def refuse_leftovers(self, *, resume: bool, force: bool) -> None:
        """Raises StoreError where files of another comparison, or of somebody else, would be changed or replaced."""
        if not self.prefix.parent.is_dir():
            raise StoreError(f"{self.results}: there is no folder {self.prefix.parent}; create it first")
        if os.path.lexists(self.folder) and not self._record.is_file() and not _is_blank(self.folder):
            raise StoreError(
                f"{self.folder}: is no folder of replay memories, and is kept; choose another prefix with -o"
            )
        for path in (self.results, self.folder, self.picture):
            if not (resume or force) and os.path.lexists(path):
                raise StoreError(f"{path}: already exists and is kept; go on with --resume, or start over with --force")
        for path in (self.results, self.picture):
            refuse_existing(path, force=True)

    def open(
        self, configs: Mapping[str, Mapping[str, Any]], memories: Mapping[str, Any], *, force: bool
    ) -> ResultsFile:
        """The results so far, of runs that had the same ``configs`` (by mode); ``force`` starts over.

        ``memories`` is what the sets in the folder depend on. Modes that are added later share these sets, so it must stay
        the same, too. Raises ConfigError where anything differs, naming what, StoreError where files cannot be read or
        written.
        """
        if force:
            self._clear()
        wanted = {_MEMORIES: plain_config(memories)} | {mode: plain_config(c) for mode, c in configs.items()}
        held = self._held()
        for name, config in wanted.items():
            if held.setdefault(name, config) != config:
                what = "sets" if name == _MEMORIES else f"{name} runs"
                raise ConfigError(
                    f"{self.folder}: the {what} here were made with other options ({differences(held[name], config)}); give "
                    "the same, or choose another prefix with -o"
                )
        results = ResultsFile(self.results)
        for mode in configs:
            results.require(mode, wanted[mode])
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{self.folder}: cannot be made: {error.strerror}; choose another prefix with -o"
            ) from error
        write_bytes(self._record, json.dumps(held, indent=1).encode(), force=True)
        return results

    def _clear(self) -> None:
        try:
            self.results.unlink(missing_ok=True)
            if self.folder.exists():
                # The record last: what a kill leaves of the folder is still known as ours.
                for path in self.folder.iterdir():
                    if path.is_dir() and not path.is_symlink():
                        shutil.rmtree(path)
                    elif path != self._record:
                        path.unlink()
                self._record.unlink(missing_ok=True)
                self.folder.rmdir()
        except OSError as error:
            raise StoreError(
                f"{error.filename}: cannot be deleted: {error.strerror}; choose another prefix with -o"
            ) from error

    def _held(self) -> dict[str, Any]:
        if not self._record.exists():
            return {}
        try:
            held = json.loads(self._record.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise StoreError(f"{self._record}: cannot be read ({error}); start over with --force") from error
        if not isinstance(held, dict) or not all(isinstance(config, dict) for config in held.values()):
            raise StoreError(f"{self._record}: holds no configurations; start over with --force")
        return held

    @property
    def _record(self) -> Path:
        return self.folder / "configs.json"

    def _with(self, suffix: str) -> Path:
        return self.prefix.with_name(self.prefix.name + suffix)


def _is_blank(folder: Path) -> bool:
    """Whether a folder has nothing in it but what a kill may leave of a write."""
    return folder.is_dir() and all(path.name.startswith(".") and path.suffix == ".tmp" for path in folder.iterdir())

"""The runs of a comparison, and its files: results, picture, and a folder of memories and states."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.replay.configs import differences, plain_config
from atom_plugin.replay.results import StreamResultsFile
from atom_plugin.runtime import bounded_json
from atom_plugin.runtime.files import refuse_existing, temporary_beside, write_bytes
from atom_plugin.runtime.folders import place_folder, recover

BASELINES = {
    "real-ipc": "replay",
    "real-bytes": "replay",
    "gdumb": "from-memory",
    "naive": "replay",
    "joint": "replay",
}
"""The baselines and the mode of each, which does not depend on the requested modes."""

_MEMORIES = "memories"  # in the record, beside the modes
_RECORD = "configs.json"
_OURS = re.compile(
    rf"{re.escape(_RECORD)}|.+-order\d+-step\d+\.h5|.+-order\d+-network\d+\.state(\.memory\d+\.h5)?|\.[0-9a-f]+\.tmp"
)


class ReplayRun(NamedTuple):
    """One run of a comparison."""

    policy: str
    mode: str
    order: int
    network: int


def plan_runs(policies: Sequence[str], modes: Sequence[str], orders: int, networks: int) -> list[ReplayRun]:
    """All runs, ordered by class order, so that each stream is prepared once; a baseline only in its own mode."""
    pairs = [
        (policy, mode)
        for policy in policies
        for mode in ([BASELINES[policy]] if policy in BASELINES else dict.fromkeys(modes))
    ]
    return [
        ReplayRun(policy, mode, order, network)
        for order, (policy, mode), network in itertools.product(range(orders), pairs, range(networks))
    ]


@dataclass(frozen=True)
class ComparisonFiles:
    """Names of the files of a comparison, with one prefix. Raises ConfigError for a prefix without a name."""

    prefix: Path

    def __post_init__(self) -> None:
        if self.prefix.name in ("", ".."):
            raise ConfigError(f"the prefix {str(self.prefix)!r} has no file name; give one, e.g. -o runs/mine")

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
        """Raises StoreError if files of another comparison, or foreign files, would be changed or replaced."""
        if not self.prefix.parent.is_dir():
            raise StoreError(f"{self.results}: there is no folder {self.prefix.parent}; create it first")
        if os.path.lexists(self.folder):
            foreign = foreign_files(self.folder) if self.folder.is_dir() and not self.folder.is_symlink() else None
            if foreign is None or (foreign and not self._record.is_file()):
                raise StoreError(
                    f"{self.folder}: is not a folder of replay memories, and is kept; choose another prefix with -o"
                )
            if foreign and force:
                raise StoreError(
                    f"{self.folder}: contains {foreign[0]}, which was not written by a replay, and is not replaced; "
                    "move it elsewhere, or choose another prefix with -o"
                )
        for path in (self.results, self.folder, self.picture):
            if not (resume or force) and os.path.lexists(path):
                raise StoreError(
                    f"{path}: already exists and is kept; continue with --resume, or start over with --force"
                )
        for path in (self.results, self.picture):
            refuse_existing(path, force=True)

    def open_results(
        self, configs: Mapping[str, Mapping[str, Any]], memories: Mapping[str, Any], *, force: bool
    ) -> StreamResultsFile:
        """The results so far, of runs with the same ``configs`` (by mode); ``force`` starts over.

        ``memories`` is the configuration of the sets in the folder. Modes that are added later share these sets, so it must
        stay the same, too. Raises ConfigError if anything differs, naming it, StoreError if files cannot be read or written.
        """
        recover(self.folder, foreign_files)
        wanted = {_MEMORIES: plain_config(memories)} | {mode: plain_config(c) for mode, c in configs.items()}
        held = {} if force else self._held()
        for name, config in wanted.items():
            if held.setdefault(name, config) != config:
                what = "sets" if name == _MEMORIES else f"{name} runs"
                raise ConfigError(
                    f"{self.folder}: the {what} here were made with other options ({differences(held[name], config)}); give "
                    "the same, or choose another prefix with -o"
                )
        record = json.dumps(held, indent=1).encode()
        if force:
            self._make_folder(record, replace=True)
            self._delete_results()
        results = StreamResultsFile(self.results)
        for mode in configs:
            results.require(mode, wanted[mode])
        if self.folder.is_dir():
            write_bytes(self._record, record, force=True)
        else:
            self._make_folder(record, replace=False)
        return results

    def _make_folder(self, record: bytes, *, replace: bool) -> None:
        """Make a folder with the record alone, in one move; an old one is complete until then, or unchanged."""
        temporary = temporary_beside(self.folder)
        try:
            temporary.mkdir()
            write_bytes(temporary / self._record.name, record, force=False)
            place_folder(temporary, self.folder, replace=replace, foreign=foreign_files)
        except OSError as error:
            raise StoreError(
                f"{self.folder}: cannot be made: {error.strerror}; choose another prefix with -o"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _delete_results(self) -> None:
        try:
            self.results.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(
                f"{self.results}: cannot be deleted: {error.strerror}; choose another prefix with -o"
            ) from error

    def _held(self) -> dict[str, Any]:
        if not self._record.exists():
            return {}
        try:
            held = bounded_json.parse(self._record.read_bytes())
        except (OSError, ValueError) as error:
            raise StoreError(f"{self._record}: cannot be read ({error}); start over with --force") from error
        if not isinstance(held, dict) or not all(isinstance(config, dict) for config in held.values()):
            raise StoreError(f"{self._record}: contains no configurations; start over with --force")
        return held

    @property
    def _record(self) -> Path:
        return self.folder / _RECORD

    def _with(self, suffix: str) -> Path:
        return self.prefix.with_name(self.prefix.name + suffix)


def foreign_files(folder: Path) -> list[str]:
    """The names in the folder that a comparison does not write: not the record, sets, or states of runs."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() or not _OURS.fullmatch(path.name))

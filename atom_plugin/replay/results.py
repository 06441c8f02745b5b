"""The result of a run over one stream, and a file of results: one JSON line each."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.replay.configs import check_configs, plain_config
from atom_plugin.runtime import jsonl

MODES = ("replay", "from-memory")
_LINES = jsonl.LineFormat(name="a file of replay results", value="atom-plugin/stream-result", version=1)

Key = tuple[str, str, int, int]


@dataclass(frozen=True, kw_only=True)
class StreamResult:
    """The result of ``policy`` on one stream: class order ``order``, network ``network`` (both counted from 0).

    ``mode`` is one of ``MODES``: training on real data and memory ("replay"), or a new network on the memory alone
    ("from-memory"). ``accuracies[k][i]`` is the accuracy, in [0, 1], on experience i after step k, for i <= k;
    ``test_images[i]`` the number of test images of experience i. ``memory_images`` and ``memory_bytes`` are the final contents
    of the memory, 0 without one. ``config`` has JSON values, the same for all runs of a mode in one table. Raises ConfigError
    for anything else.
    """

    policy: str
    mode: str
    order: int
    network: int
    accuracies: tuple[tuple[float, ...], ...]
    test_images: tuple[int, ...]
    memory_images: int
    memory_bytes: int
    seconds: float
    config: Mapping[str, Any]

    def __post_init__(self) -> None:
        _check(isinstance(self.policy, str) and self.policy != "", f"found policy {self.policy!r}, expected a name")
        _check(self.mode in MODES, f"found mode {self.mode!r}, expected one of {', '.join(MODES)}")
        for name in ("order", "network", "memory_images", "memory_bytes"):
            _check(_is_count(getattr(self, name)), f"found {name} {getattr(self, name)!r}, expected an integer from 0")
        _check(_is_number(self.seconds, math.inf), f"found seconds {self.seconds!r}, expected a finite number from 0")
        self._check_accuracies()
        object.__setattr__(self, "config", plain_config(self.config))

    def _check_accuracies(self) -> None:
        rows, images = self.accuracies, self.test_images
        _check(isinstance(rows, tuple) and len(rows) > 0, f"found accuracies {rows!r}, expected a tuple of rows")
        for step, row in enumerate(rows):
            shaped = isinstance(row, tuple) and len(row) == step + 1
            _check(shaped, f"found {row!r} as row {step} of the accuracies, expected a tuple of {step + 1}")
            for value in row:
                _check(_is_number(value, 1), f"found accuracy {value!r} in row {step}, expected a number from 0 to 1")
        counted = isinstance(images, tuple) and len(images) == len(rows) and all(_is_count(n) and n > 0 for n in images)
        _check(counted, f"found test_images {images!r}, expected {len(rows)} positive integers, one per step")

    @property
    def key(self) -> Key:
        """(policy, mode, order, network): identifies the run in a table."""
        return self.policy, self.mode, self.order, self.network

    @property
    def curve(self) -> tuple[float, ...]:
        """After each step the accuracy, in [0, 1], on the test images of all classes seen so far."""
        return tuple(
            sum(value * images for value, images in zip(row, self.test_images, strict=False))
            / sum(self.test_images[: len(row)])
            for row in self.accuracies
        )

    @property
    def final(self) -> float:
        """The accuracy, in [0, 1], on all classes after the last step."""
        return self.curve[-1]

    @property
    def forgetting(self) -> float:
        """Mean over the experiences before the last of first accuracy minus last, in [-1, 1]; 0 for a single step.

        As in Avalanche. Chaudhry et al. (2018) take the highest earlier accuracy instead of the first.
        """
        last = self.accuracies[-1]
        lost = [row[step] - last[step] for step, row in enumerate(self.accuracies[:-1])]
        return statistics.fmean(lost) if lost else 0.0

    @property
    def backward_transfer(self) -> float:
        """Minus forgetting (Lopez-Paz and Ranzato 2017)."""
        return 0.0 - self.forgetting

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, ``format`` and ``format_version`` first."""
        return {"format": _LINES.value, "format_version": _LINES.version, **asdict(self)}

    @classmethod
    def from_json(cls, record: Any) -> StreamResult:
        """The inverse of :meth:`to_json`. Raises StoreError for a foreign, newer or damaged record."""
        _LINES.check(record)
        names = {field.name for field in fields(cls)}
        wrong = names.symmetric_difference(record.keys() - {"format", "format_version"})
        if wrong:
            raise StoreError(f"{', '.join(sorted(wrong))} missing or unknown; the record is damaged")
        try:
            return cls(**{name: _tuples(record[name]) for name in names - {"config"}}, config=record["config"])
        except ConfigError as error:
            raise StoreError(f"{error}; the record is damaged") from None


class StreamResultsFile:
    """The results in ``path``, and a way to add more, so that a stopped comparison can continue.

    A missing file has no results. :mod:`atom_plugin.runtime.jsonl` defines which lines are skipped, and which are a StoreError;
    so is a file that cannot be read, or a missing folder. Processes that run parts of one comparison may append to one file;
    each sees its own lines and those that were there when it opened the file. If two did the same run, the first counts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.parent.is_dir():
            raise StoreError(f"{path}: there is no folder {path.parent}; create it first")
        self._results: dict[Key, StreamResult] = {}
        for result in jsonl.read(path, _LINES, StreamResult.from_json):
            self._results.setdefault(result.key, result)
        check_configs(((result.mode, result.config) for result in self.results), f"{path}: ")

    @property
    def results(self) -> tuple[StreamResult, ...]:
        """All results, in the order of the file."""
        return tuple(self._results.values())

    def find(self, policy: str, mode: str, order: int, network: int) -> StreamResult | None:
        """The result of this run, or None if it has not finished."""
        return self._results.get((policy, mode, order, network))

    def require(self, mode: str, config: Mapping[str, Any]) -> None:
        """Raise ConfigError unless the file's runs of ``mode`` had this configuration; the message names the differences."""
        held = ((result.mode, result.config) for result in self.results)
        check_configs([*held, (mode, plain_config(config))], f"{self.path}: ")

    def append(self, result: StreamResult) -> None:
        """Add one line; it is on the disk when this returns.

        Raises ConfigError as :meth:`require` does, StoreError if the file has this run already or cannot be written.
        """
        self.require(result.mode, result.config)
        if result.key in self._results:
            raise StoreError(f"{self.path}: already has {_name(result)}; look with find before running it")
        jsonl.append(self.path, result.to_json())
        self._results[result.key] = result


def is_results(path: Path) -> bool:
    """Whether the file is empty or begins like a file of results."""
    with path.open("rb") as file:
        return _LINES.head.startswith(file.read(len(_LINES.head)))


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any, highest: float) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= highest and value < math.inf
    )


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _name(result: StreamResult) -> str:
    return f"order {result.order}, network {result.network} of {result.policy} in mode {result.mode}"

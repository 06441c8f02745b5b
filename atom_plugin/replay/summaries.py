"""Results of streams side by side: means over networks and class orders, and their table."""

from __future__ import annotations

import itertools
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from atom_plugin.errors import ConfigError
from atom_plugin.evaluation.spread import sample_std
from atom_plugin.replay.configs import check_configs, flat_config
from atom_plugin.replay.results import Key, StreamResult
from atom_plugin.runtime.table_text import remark, table_text
from atom_plugin.runtime.text import printable

_UNTOLD = "details."  # settings that stand in the file, but not above every table

ClassesPerStep = int | Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and sample standard deviation over class orders; the deviation is None for a single order."""

    mean: float
    std: float | None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One policy in one mode. ``networks`` has the number of networks of each class order, in order.

    ``curve``: accuracy on all classes seen after each step; it and ``backward_transfer``, ``forgetting`` are fractions.
    ``memory_images`` and ``memory_bytes`` are the largest of any run.
    """

    policy: str
    mode: str
    networks: tuple[int, ...]
    curve: tuple[Spread, ...]
    forgetting: Spread
    backward_transfer: Spread
    memory_images: int
    memory_bytes: int
    config: Mapping[str, Any]

    @property
    def orders(self) -> int:
        """How many class orders the standard deviations are over."""
        return len(self.networks)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "orders": self.orders}


def summarise_streams(results: Iterable[StreamResult]) -> list[Summary]:
    """One summary per (policy, mode), in order of first appearance.

    Networks are averaged within a class order first; mean and standard deviation are then over the orders, because every order
    is another stream, and networks on one stream are not independent draws of it. Raises ConfigError if results do not fit
    together: a run given twice, other numbers of steps, or two configurations of one mode.
    """
    held: dict[Key, StreamResult] = {}
    for result in results:
        if held.setdefault(result.key, result) is not result:
            raise ConfigError(f"found the run {result.key} (policy, mode, order, network) twice, expected it once")
    check_configs((result.mode, result.config) for result in held.values())
    _steps({len(result.accuracies) for result in held.values()})
    groups: dict[tuple[str, str], list[StreamResult]] = {}
    for result in held.values():
        groups.setdefault((result.policy, result.mode), []).append(result)
    return [_summary(group) for group in groups.values()]


def stream_table(
    summaries: Sequence[Summary],
    *,
    classes_per_step: ClassesPerStep | None = None,
    markdown: bool = False,
    latex: bool = False,
) -> str:
    """A row per summary in percent, under lines with the settings that all runs share and the meaning of the numbers.

    The columns of the curve are headed by the classes seen so far, or by the step if ``classes_per_step`` (one number for all
    steps, or one each) is not given. Raises ConfigError if summaries do not fit together, or there is none.
    """
    from prettytable import PrettyTable, TableStyle

    steps = comparable(summaries)
    if classes_per_step is None:
        heads = [f"step {step}" for step in range(1, steps + 1)]
    else:
        heads = [f"{seen} class{'es' * (seen > 1)}" for seen in classes_seen(classes_per_step, steps)]
    drawn = PrettyTable(["policy", "mode", "memory", "n", *heads, "forgetting", "BWT"])
    drawn.set_style(TableStyle.MARKDOWN if markdown else TableStyle.DEFAULT)
    drawn.align = "r"
    drawn.align["policy"] = drawn.align["mode"] = "l"
    for summary in summaries:
        values = [*summary.curve, summary.forgetting, summary.backward_transfer]
        numbers = [_percent(value) for value in values]
        cells = [summary.policy, summary.mode, _memory(summary), _runs(summary), *numbers]
        drawn.add_row([printable(cell) for cell in cells])
    return f"{remark(_caption(summaries), latex=latex)}\n\n{table_text(drawn, latex=latex)}"


def _summary(group: Iterable[StreamResult]) -> Summary:
    runs = sorted(group, key=lambda run: run.key)
    first = runs[0]

    def spread(values: Iterable[float]) -> Spread:
        """The statistics of one value per run."""
        orders: dict[int, list[float]] = {}
        for run, value in zip(runs, values, strict=True):
            orders.setdefault(run.order, []).append(value)
        means = [statistics.fmean(each) for each in orders.values()]
        return Spread(mean=statistics.fmean(means), std=sample_std(means))

    return Summary(
        policy=first.policy,
        mode=first.mode,
        networks=tuple(Counter(run.order for run in runs).values()),
        curve=tuple(map(spread, zip(*(run.curve for run in runs), strict=True))),
        forgetting=spread(run.forgetting for run in runs),
        backward_transfer=spread(run.backward_transfer for run in runs),
        memory_images=max(run.memory_images for run in runs),
        memory_bytes=max(run.memory_bytes for run in runs),
        config=first.config,
    )


def comparable(summaries: Sequence[Summary]) -> int:
    """The number of steps that all have. Raises ConfigError if they differ."""
    if not summaries:
        raise ConfigError("found no results to show, expected at least one; has any run finished?")
    _configs(summaries)
    return _steps({len(summary.curve) for summary in summaries})


def _configs(summaries: Sequence[Summary]) -> dict[str, Mapping[str, Any]]:
    return check_configs((summary.mode, summary.config) for summary in summaries)


def _steps(counts: set[int]) -> int:
    if len(counts) > 1:
        raise ConfigError(f"found results of {' and '.join(map(str, sorted(counts)))} steps, expected the same of all")
    return max(counts, default=0)


def classes_seen(classes_per_step: ClassesPerStep, steps: int) -> list[int]:
    """How many classes have come after each step. Raises ConfigError for another number of steps."""
    counts = [classes_per_step] * steps if isinstance(classes_per_step, int) else list(classes_per_step)
    if len(counts) != steps or any(count < 1 for count in counts):
        raise ConfigError(f"found classes per step {classes_per_step}, expected {steps} positive numbers, one per step")
    return list(itertools.accumulate(counts))


def _caption(summaries: Sequence[Summary]) -> str:
    """The settings that all runs share, then the settings of each mode, then the meaning of the numbers."""
    settings = {
        mode: {name: value for name, value in flat_config(config).items() if not name.startswith(_UNTOLD)}
        for mode, config in _configs(summaries).items()
    }
    first, *others = settings.values()
    shared = {name: value for name, value in first.items() if all(name in o and o[name] == value for o in others)}
    parts = {"": shared}
    for mode, config in settings.items():
        parts[f"{mode}: "] = {name: value for name, value in config.items() if name not in shared}
    told = [prefix + ", ".join(f"{n} {_show(v)}" for n, v in part.items()) for prefix, part in parts.items() if part]
    return (
        f"{'; '.join(told) or 'no settings given'}.\n"
        "Accuracy on all classes seen so far, forgetting and backward transfer (BWT) in %: mean ± sample standard deviation "
        "over class orders, each the mean of its networks; n: class orders x networks."
    )


def _show(value: Any) -> str:
    return printable(value) if isinstance(value, str) else json.dumps(value)


def _percent(value: Spread) -> str:
    mean = round(100 * value.mean, 1) + 0.0  # no "-0.0"
    return f"{mean:.1f}" if value.std is None else f"{mean:.1f} ± {100 * value.std:.1f}"


def _runs(summary: Summary) -> str:
    fewest, most = min(summary.networks), max(summary.networks)
    return f"{summary.orders} x {fewest if fewest == most else f'{fewest}-{most}'}"


def _memory(summary: Summary) -> str:
    if not summary.memory_images:
        return "none"
    size, unit = float(summary.memory_bytes), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{summary.memory_images} images, {size:.{0 if unit == 'B' else 1}f} {unit}"

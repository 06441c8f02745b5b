"""Write the tables of docs/results.md and docs/notes/accuracy.md from benchmarks/results/: `python benchmarks/results.py`.

The tables between `<!-- NAME -->` and `<!-- end -->` of a page are rewritten, the rest is unchanged. Lines come from
benchmarks/reproduce.py, printed values from benchmarks/presets/. Cells of one run are in one column.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import study_tables
from presets import Preset, load_presets
from prettytable import PrettyTable, TableStyle
from reproduce import read_lines
from scipy import stats

from atom_plugin.distillation.select_config import current_json

Line = dict[str, Any]
HERE = Path(__file__).parent
PAGES = {
    HERE.parent / "docs" / "results.md": HERE / "results" / "paper.jsonl",
    HERE.parent / "docs" / "notes" / "accuracy.md": HERE / "results" / "accuracy.jsonl",
    HERE.parent / "docs" / "packing.md": HERE / "results" / "paper.jsonl",
    HERE.parent / "docs" / "any-ipc.md": HERE / "results" / "paper.jsonl",
    HERE.parent / "docs" / "rivals.md": HERE / "results" / "paper.jsonl",
}
LEAD = "ATOM, table 1", "CIFAR-10"
SETS = 3  # of a cell, before a difference has an interval and anything is called confirmed
# What ATOM's tables 1 and 4 say from the top: two methods of one rank are not compared.
CLAIMED = (("atom", "datadam"), ("atom-channel", "datadam"), ("datadam", "dm"), ("dm", "random"))
SOURCES = {
    "CIFAR-10": "",
    "CIFAR-100": " --dataset cifar100",
    "Tiny ImageNet": ' --dataset folder --data-dir TINY --image-size 64 --called "Tiny ImageNet"',
}


def render(page: str, lines: Sequence[Line]) -> str:
    """The page with its tables rewritten. Equal lines give equal bytes."""
    makers: dict[str, Callable[[Sequence[Line]], str]] = {
        "lead": lead,
        "order": order,
        "others": others,
        "choices": choices,
        "owed choices": owed_choices,
    }
    studies = study_tables.read_lines("studies.jsonl")
    makers |= {
        "best": lambda _: grid(study_tables.best(studies)),
        "packed": lambda _: grid(study_tables.packed(studies)),
        "one packed image": lambda _: grid(study_tables.choices(studies, "ipc1")),
        "packed choices": lambda _: grid(study_tables.choices(studies, "packed")),
        "pool choices": lambda _: grid(study_tables.choices(studies, "pools")),
        "any ipc": lambda _: grid(study_tables.any_ipc(study_tables.read_lines("any-ipc-digits.jsonl"))),
        "any ipc cifar": lambda _: grid(study_tables.any_ipc(study_tables.read_lines("any-ipc-cifar.jsonl"))),
        "growing": lambda _: grid(study_tables.growing(study_tables.read_lines("growing-digits.jsonl"))),
        "rivals": lambda _: grid(study_tables.rivals(study_tables.read_lines("rivals.jsonl"))),
        "rivals cifar": lambda _: grid(study_tables.rivals(study_tables.read_lines("rivals-cifar.jsonl"))),
        "rival steps": lambda _: grid(study_tables.rival_steps(study_tables.read_lines("rivals.jsonl"))),
        "step times": lambda _: grid(study_tables.step_times(study_tables.read_lines("any-ipc-time.jsonl"))),
    }
    block = re.compile(r"(<!-- ([a-z ]+) -->\n).*?(<!-- end -->)", re.S)
    return block.sub(lambda found: f"{found[1]}\n{makers[found[2]](lines)}\n\n{found[3]}", page)


def lead(lines: Sequence[Line]) -> str:
    """The table of the papers' main results."""
    return table([preset for preset in load_presets() if preset.table == LEAD[0]], lines, LEAD[1])


def others(lines: Sequence[Line]) -> str:
    """The papers' other tables by dataset: the measured ones, then a command for each of the others."""
    tables: dict[tuple[str, str], list[Preset]] = {}
    for preset in load_presets():
        for dataset in preset.published:
            tables.setdefault((preset.table, dataset), []).append(preset)
    measured, owed = [], []
    for (name, dataset), presets in tables.items():
        title = f"{name}: {presets[0].title}, {dataset}"
        if (name, dataset) == LEAD:
            continue
        if by_run(lines, name, dataset):
            rows = [preset for preset in load_presets() if preset.table == name]
            measured.append(f"### {title}\n\n{table(rows, lines, dataset)}\n")
        else:
            file = presets[0].name.partition("/")[0]
            owed.append(f"- {title}: `python benchmarks/reproduce.py --preset {file}{SOURCES[dataset]}`")
    return "\n".join(measured + owed)


def by_run(lines: Sequence[Line], table: str, dataset: str) -> dict[str, list[Line]]:
    """Lines by letter: lines with the same protocol and the same copy of the images share a letter."""
    runs: dict[str, list[Line]] = {}
    for line in lines:
        if (line["table"], line["data"].partition(" (")[0]) == (table, dataset):
            runs.setdefault(json.dumps([line["data"], line["run"]], sort_keys=True), []).append(line)
    return {chr(ord("a") + number): run for number, run in enumerate(runs.values())}


def table(presets: Sequence[Preset], lines: Sequence[Line], dataset: str) -> str:
    """Caption and table: a row for each preset; for each column the paper's value, then the measured ones by run."""
    runs = by_run(lines, presets[0].table, dataset)
    columns = {"": [preset.row for preset in presets]}
    for column in dict.fromkeys(column for preset in presets for column in preset.columns(dataset)):
        printed = [preset.published.get(dataset, {}).get(column, "") for preset in presets]
        columns[f"{label(column)}, paper"] = [text.replace("±", " ± ") for text in printed]
        for letter, run in runs.items():
            held = {line["row"]: figure(line) for line in run if line["column"] == column}
            if held:
                columns[f"{label(column)}, {letter}"] = [held.get(preset.row, "") for preset in presets]
    return f"{caption(runs)}\n\n{grid(columns)}"


def label(column: str) -> str:
    return f"IPC {column}" if column.isdigit() else column


def figure(line: Line) -> str:
    """Mean and sample standard deviation over all networks, in %."""
    values = [value for one in line["accuracies"] for value in one]
    return f"{100 * statistics.fmean(values):.2f}" + (f" ± {100 * statistics.stdev(values):.2f}" if values[1:] else "")


def grid(columns: dict[str, Sequence[str]]) -> str:
    """A table with column heads, the first column aligned left, the others right."""
    drawn = PrettyTable()
    drawn.set_style(TableStyle.MARKDOWN)
    for head, cells in columns.items():
        drawn.add_column(head, list(cells), align="r" if drawn.field_names else "l")
    return str(drawn.get_string())


def caption(runs: dict[str, list[Line]]) -> str:
    """The settings that all runs share, then a line for each with its own."""
    facts = {letter: facts_of(run) for letter, run in runs.items()}
    first = next(iter(facts.values()))
    common = {number for number, text in enumerate(first) if all(each[number] == text for each in facts.values())}
    said = "; ".join(text for number, text in enumerate(first) if number in common and text)
    own = {
        letter: [text for number, text in enumerate(each) if number not in common and text]
        for letter, each in facts.items()
    }
    return "\n".join(
        [f"Ours: {said}.\n", *(f"- {letter}: {', '.join(texts)}" for letter, texts in own.items() if texts)]
    )


def facts_of(run: Sequence[Line]) -> list[str]:
    """The protocol as text, from the lines; if they differ, each value with its columns."""
    said = []
    for texts in zip(*map(_facts, run), strict=True):
        places: dict[str, dict[str, None]] = {}
        for text, line in zip(texts, run, strict=True):
            places.setdefault(text, {})[label(line["column"])] = None
        places.pop("", None)
        several = len(places) > 1
        said.append(
            " or ".join(f"{text} ({', '.join(at)})" if several else text for text, at in sorted(places.items()))
        )
    return said


def _config(line: Line) -> Mapping[str, Any]:
    """The config of the sets, in the form of this release."""
    return current_json(line["selection"] or "", line["config"])


def _facts(line: Line) -> list[str]:
    training, machine, versions = (line[name] for name in ("training", "machine", "versions"))
    config = _config(line)
    sets, network, eps = len(line["accuracies"]), config["network"], config["zca_eps"]
    each = f"{len(line['accuracies'][0])} networks on {'one set' if sets == 1 else f'each of {sets} sets'}"
    shown = ["standardised"] * config["standardise"] + ([] if eps is None else [f"ZCA with eps {eps:g}"])
    loop = [""] * 5  # a selection has none
    if not line["selection"]:
        loop = [
            f"recipe `{config['recipe']}`",
            f"{config['iterations']:,} iterations",
            f"image learning rate {config['image_lr']:g} ({config['image_schedule']})",
            f"momentum {config['image_momentum']:g}",
            f"real batch {config['real_batch']}",
        ]
    return [
        f"{line['data']}, {line['test_images']:,} {line.get('on', 'test')} images",
        f"n = {sum(map(len, line['accuracies']))} ({each})",
        *loop,
        f"ConvNet of width {network['width']}",
        f"{network['pooling']} pooling {network['pool_size']}x{network['pool_size']}, {network['weight_init']} weights",
        f"{network['normalisation']} normalisation",
        f"images {' and '.join(shown) or 'as they are'}",
        f"training for {training['epochs']:,} epochs, batch {training['batch_size']}, learning rate {training['lr']:g}",
        f"augmentation {training['augmentation']}",
        f"CutMix with probability {training['cutmix']:g}" if training["cutmix"] else "",
        "" if training["schedule"] == "half" else f"schedule {training['schedule']}",
        f"{machine['device']}, {machine['threads']} of {machine['cores']} cores",
        f"torch {versions['torch']}, Python {versions['python']}, atom-plugin {versions['atom-plugin']}",
    ]


def difference(ours: Line, theirs: Line) -> tuple[str, str]:
    """Of two means in points, with Welch's interval at 95 % over sets, and whether the first is better.

    With fewer than :data:`SETS` sets of either there is no interval and no verdict, because networks trained on one set do not
    sample the method.
    """
    first, second = ([statistics.fmean(one) for one in line["accuracies"]] for line in (ours, theirs))
    points = f"{100 * (statistics.fmean(first) - statistics.fmean(second)):+.2f}"
    if min(len(first), len(second)) < SETS:
        return points, ""
    low, high = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    verdict = "better" if low > 0 else "worse" if high < 0 else "not told apart"
    return f"{points} ({100 * low:+.2f} to {100 * high:+.2f})", verdict


def order(lines: Sequence[Line]) -> str:
    """The claims at IPC 10, in the runs of the first table that have all of their methods."""
    columns: dict[str, Sequence[str]] = {"": [f"{higher} above {lower}" for higher, lower in CLAIMED]}
    for letter, run in by_run(lines, *LEAD).items():
        held = {line["row"]: line for line in run if line["column"] == "10"}
        if all(row in held for pair in CLAIMED for row in pair):
            columns[letter] = [difference(held[higher], held[lower])[0] for higher, lower in CLAIMED]
    return grid(columns)


def choices(lines: Sequence[Line]) -> str:
    """Each single choice beside the default, a table a run; runs of the default alone have none."""
    parts = []
    for run in by_run(lines, "single choices", "CIFAR-10").values():
        held = {line["row"]: line for line in run}
        default = held.pop("default")
        usual = {choice_of(row): value_of(row) for row in held if _is_default(held[row], default)}
        names = list(dict.fromkeys(map(choice_of, held)))
        rows = [row for row in held if not _is_default(held[row], default)]
        rows.sort(key=lambda row: names.index(choice_of(row)))
        beside = [difference(held[row], default) for row in rows]
        columns = {
            "choice": ["default", *map(choice_of, rows)],
            "value": ["", *map(value_of, rows)],
            "in place of": ["", *(usual.get(choice_of(row), "") for row in rows)],
            "accuracy": [figure(default), *(figure(held[row]) for row in rows)],
            "difference": ["", *(points for points, _ in beside)],
        }
        if any(verdict for _, verdict in beside):
            columns["verdict"] = ["", *(verdict for _, verdict in beside)]
        if rows:
            parts.append(f"{caption({'a': [default]})}\n{grid(columns)}")
    return "\n\n".join(parts)


def choice_of(row: str) -> str:
    return row.partition(": ")[0]


def value_of(row: str) -> str:
    return row.partition(": ")[2]


def _is_default(line: Line, default: Line) -> bool:
    return _config(line) == _config(default) and all(line[name] == default[name] for name in ("training", "network"))


def owed_choices(lines: Sequence[Line]) -> str:
    """The presets that no line has."""
    owed: dict[str, list[str]] = {}
    for preset in load_presets("accuracy"):
        if preset.row not in {line["row"] for line in lines}:
            name, _, value = preset.row.partition(": ")
            owed.setdefault(name, []).append(value)
    return "\n".join(f"- {name}: {'; '.join(values)}" for name, values in owed.items())


if __name__ == "__main__":
    for page, results in PAGES.items():
        page.write_text(render(page.read_text("utf-8"), read_lines(results)), encoding="utf-8")

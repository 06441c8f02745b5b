"""docs/performance.md from benchmarks/results/performance.json: `python benchmarks/render.py`.

The text comes from performance.md.jinja; every number that `benchmarks/run.py` can measure comes from the JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2  # torch brings it

from atom_plugin.runtime.files import write_bytes

_ABOUT = ("command", "date", "wall_s", "machine", "versions", "options", "notes", "tables")

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "performance.json"
PAGE = HERE.parent / "docs" / "performance.md"
TEMPLATE = "performance.md.jinja"

# ATOM, table 3, on an A100: seconds of a step and GB of GPU memory, by IPC.
PUBLISHED = {1: (0.10, 3.601), 10: (0.10, 4.314), 50: (0.17, 5.134)}
# Parts without a section of their own in the template: their headings, and the pictures that they draw.
SECTIONS = {
    "gpu": "Steps and training",
    "together": "Networks trained together",
    "processes": "Several processes",
    "large": "Large sources",
}
PICTURES = {"large": "images/large-sources.png"}


def render(results: Mapping[str, Any]) -> str:
    """The page. Raises jinja2.UndefinedError if the template uses a number that its part does not have."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["figure"] = figure
    functions = (ratios, steps, trainings, counts, shares, machine, measured_on, own_tables)
    environment.globals.update({function.__name__: function for function in functions})
    devices = {name: results[name] for name in ("cpu", "cuda") if name in results}
    pictures = {name: path for name, path in PICTURES.items() if (PAGE.parent / path).is_file()}
    return environment.get_template(TEMPLATE).render(devices=devices, sections=SECTIONS, pictures=pictures)


def write_page() -> None:
    """Rewrite docs/performance.md."""
    write_bytes(PAGE, render(json.loads(RESULTS.read_text())).encode(), force=True)


def figure(value: object) -> str:
    """Three significant digits of a float, without exponent; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or value == 0 or not math.isfinite(value):
        return f"{value:,}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; numbers are formatted by :func:`figure`."""
    lines = [columns, ["---"] * len(columns), *([figure(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ratios(device: Mapping[str, Any]) -> str:
    """The fast step compared with the plain step, the published time and the counted limit; empty if neither is measured."""
    rows = []
    for step in _like(device, "step-"):
        setting, ours, limit = step["setting"], step["seconds"]["ours"]["median"], _limit(step)
        published, memory = PUBLISHED[setting["ipc"]]
        what = f"step, IPC {setting['ipc']}, {setting['real_batch']} real images per class"
        against = [step["ratio"], f"{published:.2f}", ours / published, limit, ours / limit]
        rows.append([what, ours, *against, step["peak_gb"], memory])
    for training in _like(device, "training-"):
        ours, limit = training["seconds"]["ours"]["median"], _limit(training)
        what = f"training epoch, {training['setting']['images']} images"
        rows.append([what, ours, training["ratio"], "", "", limit, ours / limit, "", ""])
    if not rows:
        return ""
    columns = [
        "what",
        "ours, s",
        "plain / ours",
        "published, s",
        "ours / published",
        "counted limit, s",
        "ours / limit",
    ]
    return markdown([*columns, "peak, GB", "published, GB"], rows)


def steps(device: Mapping[str, Any]) -> str:
    """Seconds of a step, with their spread."""
    rows = [[part["setting"]["ipc"], part["setting"]["real_batch"], *_seconds(part)] for part in _like(device, "step-")]
    return markdown(["IPC", "real images per class", "n", "plain, s", "extremes", "ours, s", "extremes"], rows)


def trainings(device: Mapping[str, Any]) -> str:
    """Seconds of an epoch, with their spread."""
    rows = [[part["setting"]["images"], *_seconds(part)] for part in _like(device, "training-")]
    return markdown(["images", "n", "plain, s", "extremes", "ours, s", "extremes"], rows)


def counts(device: Mapping[str, Any]) -> str:
    """The arithmetic of a step and the bytes that it moves at least."""
    parts = _like(device, "step-")
    rows: list[list[object]] = []
    for key, unit in (("gflop", "GFLOP"), ("traffic_gb", "GB")):
        names = list(parts[0][key])
        rows += [[f"{name}, {unit}", *(part[key][name] for part in parts)] for name in names]
        rows.append([f"together, {unit}", *(sum(part[key].values()) for part in parts)])
    return markdown(
        ["", *(f"IPC {part['setting']['ipc']}, {part['setting']['real_batch']} real" for part in parts)], rows
    )


def shares(part: Mapping[str, Any]) -> str:
    """A breakdown by kind of operation, plain and fast step."""
    plain, ours = part["seconds"]["plain"], part["seconds"]["ours"]
    kinds = sorted({*plain, *ours}, key=lambda kind: -plain.get(kind, 0.0))
    rows: list[list[object]] = [[kind, plain.get(kind, 0.0), ours.get(kind, 0.0)] for kind in kinds]
    rows.append(["together", sum(plain.values()), sum(ours.values())])
    return markdown(["kind of operation", "plain, s", "ours, s"], rows)


def machine(device: Mapping[str, Any]) -> str:
    """The machine and the versions, in words."""
    held, versions = device["machine"], device["versions"]
    at = f"{held['cores']} cores, {held['instructions']}, {held['threads']} threads"
    where = f"{held['device']} ({at})" if "cpu" not in held else f"{held['device']} (beside {held['cpu']}, {at})"
    return f"{where}, torch {versions['torch']}, Python {versions['python']}"


def measured_on(device: Mapping[str, Any]) -> str:
    """The first and the last day of its measurements."""
    days = sorted({part["date"] for part in device["parts"].values()})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def own_tables(part: Mapping[str, Any]) -> str:
    """A part's own notes and tables, or all its numbers if it has none."""
    blocks = ["\n".join(part["notes"])] if part.get("notes") else []
    for table in part.get("tables", []):
        blocks.append(f"{table['title']}\n\n{markdown(table['columns'], table['rows'])}")
    if "lines" in part:
        blocks.append(_of_lines(part["lines"]))
    elif not part.get("tables"):
        figures = {key: value for key, value in part.items() if key not in _ABOUT}
        blocks.append(markdown(["what", "figure"], _leaves(figures)))
    return "\n\n".join(blocks)


def _of_lines(lines: Sequence[Mapping[str, Any]]) -> str:
    """A table for all lines with the same columns, a row for each; shared values are given once."""
    alike: dict[tuple[str, ...], list[dict[str, object]]] = {}
    for line in lines:
        row = dict(_leaves({key: value for key, value in line.items() if key not in _ABOUT}))
        alike.setdefault(tuple(row), []).append(row)
    blocks = []
    for names, rows in alike.items():
        if len(rows) == 1:
            blocks.append(markdown(["what", "figure"], rows[0].items()))
            continue
        same = [name for name in names if all(row[name] == rows[0][name] for row in rows)]
        columns = [name for name in names if name not in same]
        if same:
            blocks.append(f"Throughout: {'; '.join(f'{name} {figure(rows[0][name])}' for name in same)}.")
        blocks.append(markdown(columns, [[row[name] for name in columns] for row in rows]))
    return "\n\n".join(blocks)


def _leaves(value: object, name: str = "") -> Iterable[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}, {key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(inner, Mapping | list) for inner in value):
        for number, inner in enumerate(value, start=1):
            yield from _leaves(inner, f"{name} {number}")
    else:
        yield name, ", ".join(map(figure, value)) if isinstance(value, list) else value


def _like(device: Mapping[str, Any], prefix: str) -> list[Mapping[str, Any]]:
    return [part for name, part in device["parts"].items() if name.startswith(prefix)]


def _seconds(part: Mapping[str, Any]) -> list[object]:
    """n, and median and extremes of the plain and the fast step."""
    cells: list[object] = [part["seconds"]["ours"]["n"]]
    for which in ("plain", "ours"):
        held = part["seconds"][which]
        cells += [held["median"], f"{figure(held['min'])} to {figure(held['max'])}"]
    return cells


def _limit(part: Mapping[str, Any]) -> float:
    """Seconds that the counted arithmetic takes at the rate of a large matrix product on the same machine."""
    return float(sum(part["gflop"].values()) / part["matrix_gflop_per_s"])


if __name__ == "__main__":
    write_page()

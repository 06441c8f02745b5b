"""docs/results.md and docs/notes/accuracy.md: the papers' figures beside ours, and the commands that make them."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("tomllib", reason="presets are TOML, which Python reads from 3.11 on")

import results
from presets import load_presets
from reproduce import flags, options_of, read_lines, set_command

from atom_plugin.cli.distill import distill
from atom_plugin.cli.evaluate import evaluate
from atom_plugin.cli.select import select


@pytest.mark.parametrize("page", results.PAGES, ids=lambda page: page.name)
def test_the_pages_in_docs_are_what_the_committed_lines_render_to(page):
    text = page.read_text(encoding="utf-8")
    assert text == results.render(text, read_lines(results.PAGES[page])), "run python benchmarks/results.py"


# From the papers: the first and the last figure of each table that the presets hold, and one between.
@pytest.mark.parametrize(
    ("name", "dataset", "printed"),
    [
        ("atom-table-1/random", "CIFAR-10", {"1": "14.4±2.0", "10": "26.0±1.2", "50": "43.4±1.0"}),
        ("atom-table-1/herding", "Tiny ImageNet", {"1": "2.8±0.2", "10": "6.3±0.2", "50": "16.7±0.3"}),
        ("atom-table-1/atom-channel", "CIFAR-10", {"50": "68.6±0.3"}),
        ("atom-table-1/atom", "CIFAR-10", {"1": "34.8±1.0", "10": "57.9±0.7", "50": "68.8±0.5"}),
        ("atom-table-2/datadam", "CIFAR-10", {"vit": "48.2±0.8", "resnet18": "60.2±0.7", "convnet": "67.0±0.4"}),
        ("atom-table-5/p_c = 8, p_s = 1", "CIFAR-10", {"10": "58.8"}),
        ("datadam-table-6/2 and last", "CIFAR-10", {"10": "51.5±1.0"}),
        ("datadam-table-11/MMD in pixel space", "CIFAR-10", {"1": "22.7±0.6", "10": "34.9±0.3", "50": "50.9±0.3"}),
    ],
)
def test_presets_hold_what_the_papers_print(name, dataset, printed):
    (preset,) = load_presets(name)
    assert printed.items() <= preset.published[dataset].items()


@pytest.mark.parametrize("preset", load_presets(), ids=lambda preset: preset.name)
def test_a_presets_keys_are_options_of_the_command_line(preset):
    for recipe in ([], ["--recipe", "atom"]):
        name, *arguments = set_command(preset, "10", 0, options_of([*recipe, "--", "--real-batch", "32"]))
        read = {"distill": distill, "select": select}[name].make_context(name, arguments).params
        assert read["ipc"] == 10
        if name == "distill" and recipe:
            assert read["recipe"] == (
                "atom" if not preset.options["recipe"].endswith("-code") else f"{preset.row}-code"
            )
    evaluate.make_context("evaluate", ["a.h5", *flags(preset.evaluate)])


def test_tables_share_the_sets_that_they_have_in_common():
    given = options_of(["--recipe", "atom"])
    for ipc, names in (
        ("50", ("atom-table-1/dm", "atom-table-2/dm")),
        ("10", ("atom-table-1/dm", "datadam-table-6/last")),
    ):
        first, second = (set_command(*load_presets(name), ipc, 0, given) for name in names)
        assert first == second


def line(row: str, *accuracies: list[float], table: str = "ATOM, table 5") -> dict:
    """A cell as the committed ones are, with other accuracies."""
    (held, *_) = read_lines(results.HERE / "results" / "paper.jsonl")
    return json.loads(json.dumps({**held, "table": table, "row": row, "selection": None, "accuracies": accuracies}))


def test_welchs_interval_over_sets_against_its_formula_with_a_printed_quantile():
    higher, lower = [0.52, 0.55, 0.54], [0.50, 0.51, 0.49]
    # Variances 0.000233 and 0.0001: error sqrt((0.000233 + 0.0001) / 3), 3.448 degrees of freedom, t = 2.96 at 97.5 %.
    sets = {name: [[mean - 0.1, mean + 0.1] for mean in means] for name, means in (("a", higher), ("b", lower))}
    points, verdict = results.difference(line("a", *sets["a"]), line("b", *sets["b"]))
    mean, low, high = map(float, re.findall(r"[+-][\d.]+", points))
    reach = 296 * (0.001 / 3 / 3) ** 0.5
    assert (mean, low, high) == pytest.approx((3.67, 11 / 3 - reach, 11 / 3 + reach), abs=0.01)
    assert verdict == "better"
    assert results.difference(line("b", *sets["b"]), line("a", *sets["a"]))[1] == "worse"
    between = line("b", [0.53], [0.50], [0.56])
    assert results.difference(line("a", *sets["a"]), between)[1] == "not told apart"


@pytest.mark.parametrize("sets", [[[0.9] * 20], [[0.9, 0.91], [0.89, 0.9]]])
def test_fewer_than_three_sets_have_no_interval_and_no_verdict(sets):
    three = line("b", [0.1], [0.11], [0.09])
    assert results.difference(line("a", *sets), three)[1] == ""
    assert re.fullmatch(r"[+]80\.\d\d", results.difference(line("a", *sets), three)[0])
    assert re.fullmatch(r"-80\.\d\d", results.difference(three, line("a", *sets))[0])


def test_a_study_names_each_default_once_and_a_verdict_where_there_are_sets():
    (first, *_) = read_lines(results.PAGES[results.HERE.parent / "docs" / "notes" / "accuracy.md"])

    def cell(row: str, accuracies: list[list[float]], **training: object) -> dict:
        return {**first, "row": row, "accuracies": accuracies, "training": {**first["training"], **training}}

    default = cell("default", [[0.5], [0.51], [0.49]])
    same = cell("training, epochs: 300", default["accuracies"])
    longer = cell("training, epochs: 800", [[0.6], [0.61], [0.59]], epochs=800)
    assert results.choices([default, same]) == "", "the default beside nothing"
    said = results.choices([default, same, longer])
    rows = [[cell.strip() for cell in text.split("|")[1:-1]] for text in said.splitlines() if text.startswith("|")]
    assert rows[0] == ["choice", "value", "in place of", "accuracy", "difference", "verdict"]
    assert [row[:4] for row in rows[2:]] == [
        ["default", "", "", "50.00 ± 1.00"],
        ["training, epochs", "800", "300", "60.00 ± 1.00"],
    ]
    assert rows[3][5] == "better" and rows[3][4].startswith("+10.00 (")
    assert "verdict" not in results.choices([default, same, {**longer, "accuracies": [[0.6, 0.61, 0.59]]}])


def test_a_table_is_shown_once_it_has_a_cell_and_runs_are_not_mixed():
    first = line("p_c = 8, p_s = 1", [0.5, 0.52])
    other = line("p_c = 8, p_s = 2", [0.4])
    other["run"] = {**first["run"], "iterations": 7}
    other["config"]["iterations"] = 7
    said = results.others([first, other])
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
        for cells in (text.split("|") for text in said.splitlines())
        if cells[2:]
    }
    assert rows["p_c = 8, p_s = 1"] == ["58.8", "51.00 ± 1.41", ""]
    assert rows["p_c = 8, p_s = 2"] == ["58.7", "", "40.00"]
    assert "- b: n = 1 (1 networks on one set), 7 iterations" in said
    assert "--preset atom-table-5" not in said
    assert "--preset atom-table-2`" in said

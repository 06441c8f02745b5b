"""The scripts behind docs/results.md and docs/accuracy.md: the papers' tables, stages that go on where they were, the pages."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch
from small import coloured_source, small_config

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from study import accuracy_page, results_page  # noqa: E402 - by path: benchmarks are no package
from study.captions import caption, groups  # noqa: E402
from study.cells import MATCHERS as METHODS  # noqa: E402
from study.cells import SELECTIONS, Cell, reduced, tables  # noqa: E402
from study.journal import append_line, read_lines  # noqa: E402
from study.judge import head, judge  # noqa: E402
from study.making import make_sets  # noqa: E402
from study.order import compare, units, welch  # noqa: E402
from study.plan import AS_PRINTED, Run, identity, job  # noqa: E402
from study.pooled import AtomPooled, register  # noqa: E402
from study.sets import SetFolder  # noqa: E402
from study.variants import VARIANTS, row  # noqa: E402
from study.variants import cells as accuracy_cells  # noqa: E402

from atom_plugin import store  # noqa: E402
from atom_plugin.distillation.loop import distill  # noqa: E402
from atom_plugin.errors import StoreError  # noqa: E402
from atom_plugin.evaluation import Outcome, ResultsFile, running  # noqa: E402
from atom_plugin.evaluation.training import TrainConfig  # noqa: E402
from atom_plugin.matchers import MATCHERS, make_matcher  # noqa: E402

COLOUR = (3, 32, 32)
TINY = Run(
    iterations=2,
    networks=2,
    changes={"network": {"width": 4, "depth": 2}, "real_batch": 4, "precision": "float32"},
    training={"epochs": 1, "batch_size": 8},
)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(MATCHERS, "_local", dict(MATCHERS._local))
    register()


def cell(**changes) -> Cell:
    return Cell(**{"table": "1", "row": "dm", "column": "IPC 1", "dataset": "coloured", "ipc": 1, **changes})


def tiny_jobs(*wanted: Cell, run: Run = TINY):
    return [job(each, run, (3, 8, 8)) for each in wanted]


def selected(method: str) -> Cell:
    return cell(row=method, selection=method)


def matched(matcher: str, **changes) -> Cell:
    return cell(row=matcher, changes={"matcher": matcher}, **changes)


# The tables as data.


def test_every_cell_has_a_place_of_its_own_and_a_config_that_can_be_built():
    for table in tables().values():
        places = [(each.row, each.column, each.dataset) for each in table.cells]
        assert len(set(places)) == len(places)
    every = [each for table in tables().values() for each in table.cells]
    for each in {str((each.changes, each.selection, each.own_recipe)): each for each in every}.values():
        (config,) = job(each, Run(), COLOUR).configs
        make_matcher(config.matcher, config.matcher_options)
        assert config.ipc == each.ipc


def test_printed_figures_are_in_their_places():
    first = {(each.dataset, each.row, each.ipc): each.paper for each in tables()["1"].cells}
    assert (first["CIFAR-10", "atom", 10].mean, first["CIFAR-10", "atom", 10].std) == (57.9, 0.7)
    assert first["Tiny ImageNet", "herding", 50].text == "16.7±0.3"
    assert first["CIFAR-100", "forgetting", 50] is None
    assert first["CIFAR-10", "atom-channel", 10] is None
    second = {(each.row, each.column): each.paper for each in tables()["2"].cells}
    assert second["datadam", "vit"].text == "48.2±0.8"
    assert second["random", "convnet"] is None
    fourth = {(each.row, each.ipc): each.paper for each in tables()["4"].cells}
    assert (fourth["channel", 50].mean, fourth["channel", 10]) == (68.6, None)
    assert fourth["both", 10] == first["CIFAR-10", "atom", 10]
    fifth = {(each.row, each.column): each.paper for each in tables()["5"].cells}
    assert fifth["p_c = 8", "p_s = 1"].mean == max(figure.mean for figure in fifth.values())
    assert (fifth["p_c = 1", "p_s = 8"].mean, fifth["p_c = 1", "p_s = 8"].std) == (56.2, None)


def test_the_recipe_as_printed_takes_each_papers_own_and_no_factor_on_the_loss():
    third = {each.row: each for each in tables()["1"].cells if (each.dataset, each.ipc) == ("CIFAR-10", 10)}
    printed = {name: job(third[name], Run(recipe=AS_PRINTED), COLOUR).configs[0] for name in METHODS}
    assert (printed["datadam"].recipe, printed["datadam"].real_batch) == ("datadam-paper", 256)
    assert (printed["atom"].recipe, printed["atom"].real_batch) == ("atom-paper", 128)
    assert (printed["dc"].recipe, printed["dc"].inner_loop) == ("dc-code", 10)
    scales = {name: make_matcher(c.matcher, c.matcher_options).loss_scale for name, c in printed.items()}
    assert set(scales.values()) == {1.0}
    ours = job(third["feature"], Run(), COLOUR).configs[0]
    assert make_matcher(ours.matcher, ours.matcher_options).loss_scale == 100.0


def test_the_reduced_run_is_that_of_two_cores():
    first = [each for each in reduced() if each.table == "1"]
    named = {(each.row, each.ipc) for each in first}
    matchers = {(name, 10) for name in ("atom", "atom-channel", "datadam", "dm", "feature")} | {("atom", 1), ("dm", 1)}
    assert named == matchers | {(name, ipc) for name in SELECTIONS[:3] for ipc in (1, 10)}


def test_every_variant_of_the_accuracy_study_is_another_config_or_training():
    jobs = [job(each, Run(), COLOUR) for each in accuracy_cells()]
    assert len({each.cell.row for each in jobs}) == len(jobs) == len(VARIANTS)
    asked = [(identity(each.configs[0].to_json()), each.training, each.normalisation) for each in jobs]
    same = {jobs[index].cell.row for index, each in enumerate(asked) if each == asked[0]}
    assert {"default", "real batch: 64", "ZCA: eps 0.1", "image learning rate: 1"} <= same
    others = [str(each) for each in asked if each != asked[0]]
    assert len(set(others)) == len(others)


def test_only_the_matching_networks_normalisation_changes_where_the_row_says_so():
    jobs = {each.row: job(each, Run(), COLOUR) for each in accuracy_cells()}
    matching = jobs["normalisation of the matching networks: instance"]
    assert (matching.configs[0].network.normalisation, matching.normalisation) == ("instance", "batch")
    assert jobs["normalisation, matching and training: instance"].normalisation is None
    assert jobs["default"].normalisation is None


def test_maps_after_pooling_are_averages_of_four():
    maps = torch.rand(3, 5, 4, 4, dtype=torch.float64)
    pooled = maps.view(3, 5, 2, 2, 2, 2).mean((3, 5))
    for mine, theirs in zip(
        AtomPooled().describe_map(maps), make_matcher("atom", {}).describe_map(pooled), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


# Stage 1: what is there is not made again.


def test_a_set_counts_by_its_config_whatever_its_name(tmp_path):
    data = coloured_source()
    (mine,) = tiny_jobs(matched("dm"))
    made = distill(mine.configs[0], data)
    odd = replace(made.provenance, config={**made.provenance.config, "recipe": "another", "of a later release": 1})
    replace(made, provenance=odd).save(tmp_path / "by-hand.h5")
    held = SetFolder(tmp_path, data)
    assert make_sets([mine], held, device="cpu", joint=True, quiet=True) == []
    assert [path.name for path in tmp_path.iterdir()] == ["by-hand.h5"]


@pytest.mark.parametrize("damage", ["iterations", "source", "torn"])
def test_unfinished_foreign_and_damaged_files_do_not_count(tmp_path, damage, capsys):
    data = coloured_source()
    (mine,) = tiny_jobs(matched("dm"))
    made = distill(mine.configs[0], data)
    if damage == "iterations":
        made = replace(made, provenance=replace(made.provenance, iterations=1))
    made.save(tmp_path / "a.h5")
    if damage == "torn":
        (tmp_path / "a.h5").write_bytes(b"half")
    other = replace(data, fingerprint="another") if damage == "source" else data
    make_sets([mine], SetFolder(tmp_path, other), device="cpu", joint=True, quiet=True)
    assert len(list(tmp_path.glob("*.h5"))) == 2
    assert ("passed over" in capsys.readouterr().err) == (damage == "torn")


def test_sets_made_at_once_are_those_made_one_by_one(tmp_path):
    data = coloured_source()
    jobs = tiny_jobs(selected("random"), matched("dm"), matched("atom"), matched("dc"))
    sets = {}
    for joint in (True, False):
        folder = tmp_path / str(joint)
        folder.mkdir()
        held = SetFolder(folder, data)
        assert make_sets(jobs, held, device="cpu", joint=joint, quiet=True) == []
        sets[joint] = {path.name: path for path in folder.iterdir()}
    assert sets[True].keys() == sets[False].keys()
    assert len(sets[True]) == 4
    for name, path in sets[True].items():
        one, other = store.read(path), store.read(sets[False][name])
        torch.testing.assert_close(one.images, other.images, rtol=1e-3, atol=1e-4)
        assert one.provenance.config == other.provenance.config


def test_a_cell_that_cannot_be_made_leaves_the_others(tmp_path):
    jobs = tiny_jobs(matched("dm", ipc=1), selected("random"))
    impossible = replace(jobs[0], configs=(replace(jobs[0].configs[0], image_lr=1e30),))
    (line,) = make_sets(
        [impossible, jobs[1]], SetFolder(tmp_path, coloured_source()), device="cpu", joint=True, quiet=True
    )
    assert line.startswith("dm, IPC 1, seed 0: ")
    assert [path.name[:6] for path in tmp_path.glob("*.h5")] == ["random"]


# Stage 2: a line per cell, once.


@pytest.mark.auto_precision("float32")  # judge() leaves it to the machine, and notes what that took
def test_cells_are_judged_once_and_equal_ones_share_a_measurement(tmp_path):
    data, results = coloured_source(), tmp_path / "new" / "paper.jsonl"
    run = replace(TINY, sets=2)
    twin = replace(matched("dm"), table="4", row="mean embedding alone")
    jobs = tiny_jobs(selected("random"), matched("dm"), twin, run=run)
    held = SetFolder(tmp_path, data)
    make_sets(jobs, held, device="cpu", joint=True, quiet=True)
    assert judge(jobs, held, results, dataset="coloured", device="cpu") == []
    lines = read_lines(results)
    assert [(line["table"], line["row"], line["same_as"]) for line in lines] == [
        ("1", "random", None),
        ("1", "dm", None),
        ("4", "mean embedding alone", "table 1, dm, IPC 1"),
    ]
    assert lines[2]["accuracies"] == lines[1]["accuracies"]
    assert [len(one) for one in lines[1]["accuracies"]] == [2, 2]
    assert (lines[1]["iterations"], lines[1]["seeds"]) == (2, [0, 1])
    assert {"config", "training", "hardware", "versions", "seconds", "paper"} <= lines[0].keys()
    before = results.read_bytes()
    judge(jobs, held, results, dataset="coloured", device="cpu")
    assert results.read_bytes() == before
    longer = tiny_jobs(matched("dm"), run=replace(run, training={"epochs": 2, "batch_size": 8}))
    judge(longer, held, results, dataset="coloured", device="cpu")
    assert len(read_lines(results)) == 4


@pytest.mark.auto_precision("float32")  # judge() leaves it to the machine, and notes what that took
def test_a_cell_without_its_set_or_of_another_model_is_told_in_one_line(tmp_path):
    data = coloured_source()
    jobs = tiny_jobs(
        matched("dm"), selected("random"), replace(selected("random"), model="no-such-net", column="no-such-net")
    )
    held = SetFolder(tmp_path, data)
    make_sets(jobs[1:], held, device="cpu", joint=True, quiet=True)
    first, second = judge(jobs, held, tmp_path / "a.jsonl", dataset="coloured", device="cpu")
    assert "its set is not in" in first
    assert "no-such-net" in second
    assert len(read_lines(tmp_path / "a.jsonl")) == 1


def test_what_a_kill_left_of_a_line_is_passed_over_and_any_other_damage_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    append_line(path, {"table": "1"})
    with path.open("a") as file:
        file.write('{"table": "2", "ro')
    assert read_lines(path) == [{"table": "1"}]
    append_line(path, {"table": "3"})
    assert [line["table"] for line in read_lines(path)] == ["1", "3"]
    path.write_text('{"row": 1\n{"table": "2"}\n')
    with pytest.raises(StoreError, match="line 1: is not JSON"):
        read_lines(path)
    path.write_text("[1]\n")
    with pytest.raises(StoreError, match="line 1: is no cell"):
        read_lines(path)


def test_identity_ignores_where_choices_came_from_and_refuses_nothing_newer():
    config = small_config(matcher="dm").to_json()
    older = {name: value for name, value in config.items() if name not in ("network_pool", "recipe")}
    newer = {**config, "unheard_of": 3, "precision": "bfloat16", "network": {**config["network"], "unheard_of": 3}}
    spelled = {**config, "matcher_options": {"loss_scale": 1}}
    assert len({identity(each) for each in (config, older, newer, spelled)}) == 1
    assert identity({**config, "real_batch": 9}) != identity(config)
    assert identity({**config, "real_batch": 9}, "random") == identity(config, "random")


@pytest.mark.auto_precision("float32")  # judge() leaves it to the machine, and notes what that took
def test_a_stopped_run_loses_the_network_under_way_alone(tmp_path, monkeypatch):
    data = coloured_source()
    (mine,) = tiny_jobs(selected("random"), run=replace(TINY, networks=3))
    held = SetFolder(tmp_path, data)
    make_sets([mine], held, device="cpu", joint=True, quiet=True)
    append = ResultsFile.append

    def stopping(finished: ResultsFile, outcome: Outcome) -> None:
        append(finished, outcome)
        if outcome.job.repeat == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(ResultsFile, "append", stopping)
    with pytest.raises(KeyboardInterrupt):
        judge([mine], held, tmp_path / "a.jsonl", dataset="coloured", device="cpu")
    monkeypatch.undo()
    trained = []
    monkeypatch.setattr(
        running, "train", lambda *given, train=running.train, **how: trained.append(1) or train(*given, **how)
    )
    for results in ("a.jsonl", "b.jsonl"):  # the second from the networks' file alone
        assert judge([mine], held, tmp_path / results, dataset="coloured", device="cpu") == []
    assert trained == [1]
    again = tmp_path / "again"
    again.mkdir()
    for file in tmp_path.glob("*.h5"):
        (again / file.name).symlink_to(file)
    judge([mine], SetFolder(again, data), tmp_path / "c.jsonl", dataset="coloured", device="cpu")
    accuracies = [read_lines(tmp_path / f"{name}.jsonl")[0]["accuracies"] for name in "abc"]
    assert accuracies[0] == accuracies[1] == accuracies[2]
    assert trained == [1] * 4


def test_a_selections_own_choices_tell_it_from_another_and_touch_nothing_else():
    table = {each.row: each for each in tables()["1"].cells if (each.dataset, each.ipc) == ("CIFAR-10", 10)}
    run = Run(changes={"embedding": "trained:20", "forgetting_epochs": 30})
    made = {name: job(table[name], run, COLOUR).configs[0] for name in ("random", "herding", "forgetting", "atom")}
    assert {name: config.embedding for name, config in made.items()} == {
        **dict.fromkeys(made, "random"),
        "herding": "trained:20",
    }
    assert made["forgetting"].forgetting_epochs == 30
    usual = job(table["herding"], Run(), COLOUR).configs[0]
    assert identity(made["herding"].to_json(), "herding") != identity(usual.to_json(), "herding")
    beside = [a_line(table[name], 0.4, 0.5, run=run) for name in ("herding", "atom")]
    apart = [*beside, a_line(table["dm"], 0.4, 0.5, run=Run(networks=2))]
    assert [[line["row"] for line in group] for group in groups(apart)] == [["atom", "herding"], ["dm"]]


def test_a_training_recipe_brings_its_values():
    made = job(cell(), Run(training={"recipe": "modern", "epochs": 7}), COLOUR)
    assert made.training == TrainConfig.from_recipe("modern", epochs=7)
    assert made.protocol["training"]["optimizer"] == "adamw"


@pytest.mark.parametrize(
    ("iterations", "ipc", "steps"), [(8000, 10, 10_000), (1000, 10, 1250), (1, 10, 10), (1000, 1, 125)]
)
def test_loops_of_another_length_take_the_same_share_of_it(iterations, ipc, steps):
    mine = next(each for each in tables()["1"].cells if (each.row, each.ipc) == ("dc", ipc))
    config = job(mine, Run(iterations=iterations), COLOUR).configs[0]
    assert (config.iterations, config.iterations % config.inner_loop) == (steps, 0)


# Stage 3: what the lines say.


def test_a_caption_says_what_a_row_has_otherwise_and_every_choice_of_training():
    table = {each.row: each for each in tables()["1"].cells if (each.dataset, each.ipc) == ("CIFAR-10", 10)}
    run = Run(networks=2, training={"epochs": 300, "schedule": "cosine"})
    said = caption([a_line(table[name], 0.4, 0.5, run=run) for name in ("atom", "dc", "cafe", "random")])
    assert "augmentation color_crop_cutout_flip_scale_rotate, schedule cosine; 10,000 test images" in said
    (own,) = [line for line in said.splitlines() if line.startswith("With loops of their own")]
    assert "dc (IPC 10): iterations 1250, real_batch 256, image_lr 0.1" in own
    assert "network normalisation instance; cafe (IPC 10): image_lr 0.1." in own
    assert "atom (" not in own
    assert "With loops" not in caption([a_line(table["atom"], 0.4, 0.5, run=run)])


def test_welchs_interval_against_its_formula_with_a_printed_quantile():
    higher, lower = [0.52, 0.55, 0.54], [0.50, 0.51, 0.49]
    # Variances 0.000233 and 0.0001: error sqrt((0.000233 + 0.0001) / 3), 3.448 degrees of freedom, t = 2.9617 at 97.5 %.
    low, high = welch(higher, lower)
    assert (low + high) / 2 == pytest.approx(0.11 / 3)
    assert (high - low) / 2 == pytest.approx(2.9617 * (0.001 / 3 / 3) ** 0.5, rel=2e-3)
    assert compare("a", "b", [higher], [lower]).verdict == "confirmed"
    assert compare("a", "b", [lower], [higher]).verdict == "refuted"
    assert compare("a", "b", [higher], [[0.53, 0.50, 0.56]]).verdict == "not told apart"
    assert compare("a", "b", [[0.9]], [[0.1]]).verdict == "not told apart"


def test_draws_are_sets_where_there_are_several():
    assert units([[0.1, 0.3], [0.5, 0.7]]) == pytest.approx([0.2, 0.6])
    assert units([[0.1, 0.3]]) == [0.1, 0.3]


MACHINE = {"device": "cpu", "name": "a processor", "cores": 2, "threads": 1}
VERSIONS = {"atom-plugin": "0.1.0", "torch": "2.15.0", "python": "3.11.7"}


def a_line(each: Cell, *accuracies: float, run: Run | None = None, **changes):
    """What a file holds of a cell that reached ``accuracies``."""
    made = head(job(each, run or Run(networks=len(accuracies)), COLOUR), coloured_source(), "CIFAR-10 (JPEG copy)")
    measured = {
        "accuracies": [list(accuracies)],
        "mean": fmean(accuracies),
        "std": stdev(accuracies),
        "iterations": 1000,
    }
    about = {"test_images": 10000, "seconds": 1.0, "hardware": MACHINE, "versions": VERSIONS, "same_as": None}
    return json.loads(json.dumps({**made, **measured, **about, **changes}))


def of_table_1(row: str, ipc: int = 10) -> Cell:
    return next(each for each in tables()["1"].cells if (each.dataset, each.row, each.ipc) == ("CIFAR-10", row, ipc))


REACHED = {
    "random": (0.33, 0.34, 0.335),
    "dm": (0.45, 0.46, 0.455),
    "datadam": (0.50, 0.51, 0.505),
    "atom-channel": (0.53, 0.54, 0.535),
    "atom": (0.54, 0.55, 0.545),
}


def test_a_page_shows_our_figure_beside_the_papers_and_says_what_is_owed():
    folder = {"name": "folder", "fingerprint": "f"}
    page = results_page.render([a_line(of_table_1(name), *values, source=folder) for name, values in REACHED.items()])
    assert "**The order is confirmed, of these sets.**" in page
    section = page[page.index("### CIFAR-10") : page.index("### CIFAR-100")]
    assert (
        "CIFAR-10 (JPEG copy). This is a **reduced run**: 1,000 of the papers' 8,000 iterations, 1 of 5 sets" in section
    )
    assert "3 of 20 networks" in section
    assert "Measured on a processor (cpu, 1 threads of 2 cores); atom-plugin 0.1.0, torch 2.15.0" in section
    cells = {
        line.split("|")[1].strip(): [part.strip() for part in line.split("|")[2:4]]
        for line in section.splitlines()
        if line.startswith("| ")
    }
    assert cells["atom"] == ["54.50 ± 0.50 (n = 3)", "57.9 ± 0.7"]
    assert cells["atom-channel"] == ["53.50 ± 0.50 (n = 3)", ""]
    mine = 'python benchmarks/paper.py --dataset folder --data-dir DIR --called "CIFAR-10 (JPEG copy)" --table 1'
    assert f"{mine} --ipc 10 --row herding --row k-center --row forgetting" in section
    assert f"{mine} --ipc 50\n" in section
    assert section.rstrip().endswith(f"Owed at the papers' budget:\n\n    {mine} --full")
    assert "Owed" in page[page.index("### CIFAR-100") :]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"dm": (0.52, 0.53, 0.525)}, "**The order is refuted, of these sets** (datadam above dm)."),
        ({"datadam": (0.44, 0.47, 0.455)}, "**The order is neither confirmed nor refuted**"),
        ({"random": ()}, "**The order is not yet decided**"),
    ],
)
def test_the_order_is_said_in_plain_words(changed, said):
    lines = [a_line(of_table_1(name), *values) for name, values in {**REACHED, **changed}.items() if values]
    assert said in results_page.render(lines)


def test_budgets_are_not_mixed_but_a_selection_stands_beside_any_number_of_iterations():
    short, long = Run(), Run(iterations=2500)
    lines = [
        a_line(of_table_1("random"), *REACHED["random"], run=short),
        a_line(of_table_1("dm"), *REACHED["dm"], run=short),
        a_line(of_table_1("dm"), *REACHED["datadam"], run=long),
        a_line(of_table_1("dm"), *REACHED["atom"], run=replace(short, training={"epochs": 5})),
    ]
    held = [[(line["row"], line["mean"]) for line in group] for group in groups(lines)]
    random = ("random", pytest.approx(0.335))
    assert held == [
        [("dm", pytest.approx(0.455)), random],
        [("dm", pytest.approx(0.505)), random],
        [("dm", pytest.approx(0.545))],
    ]


def test_the_accuracy_page_compares_each_change_with_the_default():
    by_row = {each.row: each for each in accuracy_cells()}
    values = {
        "default": REACHED["dm"],
        "real batch: 256": REACHED["atom"],
        "ZCA: none": REACHED["random"],
        "real batch: 64": REACHED["dm"],
    }
    page = accuracy_page.render([a_line(by_row[name], *reached) for name, reached in values.items()])
    cells = [[part.strip() for part in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    verdicts = {tuple(line[:2]): (line[3][:5], line[4]) for line in cells if len(line) == 5}
    assert verdicts["real batch", "256"] == ("+9.00", "better")
    assert verdicts["ZCA", "none"] == ("-12.0", "worse")
    assert verdicts["real batch", "64"] == ("", "the default")
    owed = page[page.index("## Owed") :]
    assert f"--row {shlex.quote(row(VARIANTS[-1]))}" in owed
    assert "--row default" not in owed


def test_a_cost_is_shown_without_a_number_of_networks():
    timed = next(each for each in tables()["3"].cells if (each.row, each.column) == ("atom", "seconds, IPC 1"))
    made = head(job(timed, Run(), COLOUR), coloured_source(), "CIFAR-10")
    measured = {"mean": 0.5, "std": 0.01, "steps": 20, "hardware": MACHINE, "versions": VERSIONS, "same_as": None}
    page = results_page.render([json.loads(json.dumps({**made, **measured}))])
    assert "CIFAR-10; 20 steps, after three to warm up." in page
    (shown,) = [line for line in page.splitlines() if "0.500 ± 0.010" in line]
    assert [part.strip() for part in shown.split("|")[1:-1]] == ["atom", "0.500 ± 0.010", "0.10 ± 0.02"]


@pytest.mark.parametrize(("name", "render"), [("paper", results_page.render), ("accuracy", accuracy_page.render)])
def test_the_pages_in_docs_are_what_the_committed_lines_render_to(name, render):
    page = ROOT / "docs" / {"paper": "results.md", "accuracy": "accuracy.md"}[name]
    lines = read_lines(ROOT / "benchmarks" / "results" / f"{name}.jsonl")
    assert page.read_text(encoding="utf-8") == render(lines), f"run python benchmarks/{name}.py render"

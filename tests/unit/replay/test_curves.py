"""Summaries against numpy, the table's text, and what the picture shows."""

from __future__ import annotations

import json
import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageColor

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.replay.curves import _COLOURS, draw_curves
from atom_plugin.replay.results import StreamResult
from atom_plugin.replay.summaries import stream_table, summarise_streams
from atom_plugin.runtime.picture_files import is_picture


def result(policy="atom", mode="replay", order=0, network=0, level=0.9, steps=3, **changes) -> StreamResult:
    """Accuracy ``level`` of the last experience, and 0.1 less of each older one: forgetting is the mean of that."""
    settings = {
        "accuracies": tuple(tuple(level - 0.1 * (step - i) for i in range(step + 1)) for step in range(steps)),
        "test_images": (10,) * steps,
        "memory_images": 20,
        "memory_bytes": 5120,
        "config": {"dataset": "digits", "epochs": 5},
    }
    return StreamResult(
        policy=policy,
        mode=mode,
        order=order,
        network=network,
        seconds=1.0,
        **{**settings, **changes},
    )


def runs(policy: str, orders: int, networks: int = 2, seed: int = 0, **settings) -> list[StreamResult]:
    levels = np.random.default_rng(seed).uniform(0.5, 1.0, (orders, networks))
    return [
        result(policy, order=order, network=network, level=float(levels[order, network]), **settings)
        for order in range(orders)
        for network in range(networks)
    ]


def cells(text: str, row: int) -> list[str]:
    """The cells of one line of a table that has "|" between them; row 0 is the head."""
    lines = [line for line in text.splitlines() if line.startswith("|") and "---" not in line]
    return [cell.strip() for cell in lines[row].strip("|").split("|")]


def test_summaries_average_networks_first_and_orders_then():
    held = runs("atom", orders=3, networks=2)
    (summary,) = summarise_streams(held)
    curves = np.array([run.curve for run in held]).reshape(3, 2, 3).mean(1)
    assert [value.mean for value in summary.curve] == pytest.approx(curves.mean(0))
    assert [value.std for value in summary.curve] == pytest.approx(curves.std(0, ddof=1))
    assert summary.forgetting.mean == pytest.approx(0.15) == -summary.backward_transfer.mean
    assert (summary.orders, summary.networks) == (3, (2, 2, 2))


def test_every_order_weighs_the_same_however_many_networks_it_had():
    held = [result(order=0, level=0.4), *(result(order=1, network=n, level=0.8) for n in range(3))]
    (summary,) = summarise_streams(held)
    assert summary.curve[0].mean == pytest.approx(0.6)
    assert summary.curve[0].std == pytest.approx(np.std([0.4, 0.8], ddof=1))
    assert summary.networks == (1, 3)
    assert cells(stream_table([summary]), 1)[3] == "2 x 1-3"


def test_summaries_come_in_order_of_appearance_and_whatever_the_order_of_runs():
    held = [*runs("dm", 2), *runs("atom", 2, mode="from-memory"), *runs("atom", 2)]
    assert [(s.policy, s.mode) for s in summarise_streams(held)] == [
        ("dm", "replay"),
        ("atom", "from-memory"),
        ("atom", "replay"),
    ]
    assert {s.policy + s.mode: s for s in summarise_streams(held)} == {
        s.policy + s.mode: s for s in summarise_streams(held[::-1])
    }
    assert summarise_streams([]) == []


def test_a_summarys_memory_is_the_most_that_any_run_held():
    (summary,) = summarise_streams([result(memory_images=9, memory_bytes=90), result(network=1, memory_images=8)])
    assert (summary.memory_images, summary.memory_bytes) == (9, 5120)


def test_results_that_do_not_fit_together_are_refused():
    with pytest.raises(ConfigError, match=r"found the run \('atom', 'replay', 0, 0\) .* twice"):
        summarise_streams([result(), result()])
    with pytest.raises(ConfigError, match="results of 2 and 3 steps"):
        summarise_streams([result(), result(order=1, steps=2)])
    with pytest.raises(ConfigError, match=r"replay runs of two configurations .* epochs 5 and not 6"):
        summarise_streams([result(), result(order=1, config={"dataset": "digits", "epochs": 6})])


def test_a_summary_is_plain_json():
    (summary,) = summarise_streams(runs("atom", 2))
    plain = json.loads(json.dumps(summary.to_json()))
    assert plain["orders"] == 2
    assert plain["curve"][2] == {"mean": summary.curve[2].mean, "std": summary.curve[2].std}


def test_the_table_has_a_row_per_summary_in_percent():
    held = [result(level=0.5), result(order=1, level=0.7), result("naive", order=0, memory_images=0, memory_bytes=0)]
    text = stream_table(summarise_streams(held), classes_per_step=2)
    assert cells(text, 0) == [
        "policy", "mode", "memory", "n", "2 classes", "4 classes", "6 classes", "forgetting", "BWT",
    ]  # fmt: skip
    assert cells(text, 1) == [
        "atom", "replay", "20 images, 5.1 kB", "2 x 1",
        "60.0 ± 14.1", "55.0 ± 14.1", "50.0 ± 14.1", "15.0 ± 0.0", "-15.0 ± 0.0",
    ]  # fmt: skip
    assert cells(text, 2) == ["naive", "replay", "none", "1 x 1", "90.0", "85.0", "80.0", "15.0", "-15.0"]


def test_the_table_in_markdown_has_the_same_cells():
    summaries = summarise_streams([*runs("atom", 3), *runs("dm", 3)])
    plain, markdown = stream_table(summaries), stream_table(summaries, markdown=True)
    assert [cells(plain, row) for row in range(3)] == [cells(markdown, row) for row in range(3)]
    lines = markdown.split("\n\n")[1].splitlines()
    assert len(lines) == 4
    assert set(lines[1]) == set("|:- ")
    assert all(line.startswith("| ") and line.endswith(" |") for line in lines)
    latex = stream_table(summaries, latex=True)
    assert latex.startswith("% ") and r"\toprule" in latex and r"$\pm$" in latex


def test_steps_may_differ_in_classes_and_are_numbered_where_unknown():
    summaries = summarise_streams([result()])
    assert cells(stream_table(summaries, classes_per_step=[1, 3, 2]), 0)[4:7] == ["1 class", "4 classes", "6 classes"]
    assert cells(stream_table(summaries), 0)[4:7] == ["step 1", "step 2", "step 3"]


@pytest.mark.parametrize(
    ("size", "text"),
    [(5, "5 B"), (999, "999 B"), (1000, "1.0 kB"), (6_144_000, "6.1 MB"), (2_500_000_000_000, "2500.0 GB")],
)
def test_bytes_for_people(size, text):
    assert cells(stream_table(summarise_streams([result(memory_bytes=size)])), 1)[2] == f"20 images, {text}"


def test_the_caption_says_what_was_common_and_what_each_mode_had():
    own = {"dataset": "digits", "epochs": 200, "network": {"width": 8}, "zca": None}
    text = stream_table(summarise_streams([result(), result(mode="from-memory", config=own)]))
    assert text.splitlines()[0] == (
        "dataset digits; replay: epochs 5; from-memory: epochs 200, network.width 8, zca null."
    )
    assert stream_table(summarise_streams([result()])).splitlines()[0] == "dataset digits, epochs 5."
    assert "mean ± sample standard deviation over class orders" in text.splitlines()[1]


def test_there_is_no_minus_zero():
    gained = result(accuracies=((0.5,), (0.5001, 0.5)), test_images=(1, 1))
    assert gained.forgetting < 0
    assert cells(stream_table(summarise_streams([gained])), 1)[-2:] == ["0.0", "0.0"]


def test_tables_and_pictures_refuse_what_does_not_fit(tmp_path):
    path = tmp_path / "a.png"
    other = summarise_streams([result("dm", config={"dataset": "digits", "epochs": 6})])
    with pytest.raises(ConfigError, match="found no results to show"):
        stream_table([])
    with pytest.raises(ConfigError, match="found no results to show"):
        draw_curves([], path, classes_per_step=2)
    with pytest.raises(ConfigError, match="epochs 5 and not 6"):
        stream_table([*summarise_streams([result()]), *other])
    with pytest.raises(ConfigError, match="epochs 5 and not 6"):
        draw_curves([*summarise_streams([result()]), *other], path, classes_per_step=2)
    for wrong in (0, [2, 2], [2, 2, 0]):
        with pytest.raises(ConfigError, match="expected 3 positive numbers"):
            draw_curves(summarise_streams([result()]), path, classes_per_step=wrong)
    assert not path.exists()
    path.write_text("mine")
    with pytest.raises(StoreError, match="already exists"):
        draw_curves(summarise_streams([result()]), path, classes_per_step=2)
    assert path.read_text() == "mine"
    draw_curves(summarise_streams([result()]), path, classes_per_step=2, force=True)
    assert path.read_bytes().startswith(b"\x89PNG")


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def near(picture: np.ndarray, colour: str) -> int:
    """How many pixels have about this colour."""
    return int((np.abs(picture - np.array(ImageColor.getrgb(colour))).max(-1) < 8).sum())


def test_a_region_is_drawn_for_several_orders_only(tmp_path):
    # One line each, the same means: what differs is the region, of the line's colour at 15 % on white.
    tint = "#D9EAF3"
    several = [result(order=order, level=level) for order, level in enumerate((0.7, 0.8, 0.9))]
    for name, held in (("several", several), ("single", [result(level=0.8)])):
        draw_curves(summarise_streams(held), tmp_path / f"{name}.png", classes_per_step=2)
    counts = {name: pixels(tmp_path / f"{name}.png") for name in ("several", "single")}
    assert near(counts["several"], tint) > 20_000
    assert near(counts["single"], tint) < 500
    assert min(near(picture, _COLOURS[0]) for picture in counts.values()) > 500
    assert counts["several"].shape == (540, 960, 3)


def test_twelve_policies_are_drawn_in_twelve_ways(tmp_path):
    # The same line after 0, 1, ... 11 others, which lie below the part of the picture that is compared.
    drawn = set()
    for before in range(12):
        held = [*(result(f"p{number}", level=0.4) for number in range(before)), result("last", level=0.9)]
        anchor = result("last", "from-memory", level=0.4)  # for the same axes and legend each time
        draw_curves(summarise_streams([*held, anchor]), tmp_path / "a.png", classes_per_step=2, force=True)
        drawn.add(pixels(tmp_path / "a.png")[:150, :600].tobytes())
    assert len(drawn) == 12


def test_a_policy_keeps_its_colour_in_both_modes(tmp_path):
    held = [result(), result(mode="from-memory", level=0.7), result("dm", level=0.5)]
    draw_curves(summarise_streams(held), tmp_path / "a.png", classes_per_step=2)
    picture = pixels(tmp_path / "a.png")
    assert [near(picture, colour) > 300 for colour in _COLOURS[:3]] == [True, True, False]


def test_many_lines_make_the_picture_taller_so_that_all_are_named(tmp_path):
    held = [result(f"policy {number}", mode) for number in range(15) for mode in ("replay", "from-memory")]
    draw_curves(summarise_streams(held), tmp_path / "a.png", classes_per_step=2)
    assert pixels(tmp_path / "a.png").shape == (780, 960, 3)


@pytest.mark.parametrize("steps", [1, 2, 50])
def test_streams_of_any_length_and_odd_titles(tmp_path, steps):
    rows = tuple((1.0,) * (step + 1) for step in range(steps))
    summaries = summarise_streams([result(accuracies=rows, test_images=(10,) * steps)])
    draw_curves(summaries, tmp_path / "a.png", classes_per_step=2, title="$x_{, 100 % of " + "long " * 60)
    assert near(pixels(tmp_path / "a.png"), _COLOURS[0]) > 30


def test_pictures_have_equal_bytes_each_time(tmp_path):
    summaries = summarise_streams([*runs("atom", 3), *runs("dm", 3)])
    backend = matplotlib.get_backend()
    for name in ("a.png", "b.png"):
        draw_curves(summaries, tmp_path / name, classes_per_step=2, title="digits")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert is_picture(tmp_path / "a.png")
    assert matplotlib.get_backend() == backend
    assert "matplotlib.pyplot" not in sys.modules or not matplotlib.pyplot.get_fignums()

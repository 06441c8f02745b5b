"""A search's result as text, CSV and JSON, and drawn."""

from __future__ import annotations

import csv
import io
import json

import pytest
from PIL import Image
from searches import SET, LookedUp, search_over, widths

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.search.chart import draw_scatter
from atom_plugin.search.tables import as_csv, search_table


def reached(each):
    width = each.candidate.fields["width"]
    if width == 5 and each.workload.name == SET:
        return "the loss blew up"
    return 0.75 if width in (2, 3) and each.workload.name == SET else width / 10


def result(**more):
    search = search_over(widths(1, 2, 3, 4, 5, 9), unfit={"width=9": "too wide"}, names=["random"], **more)
    return search.run(LookedUp(reached), tops=[1, 3], words={"space": "widths"})


def rows(text, first):
    """The cells of the rows that start with ``first``."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in cells] for cells in lines if cells[0].strip() == first]


def test_all_tables_are_rows_of_latex() -> None:
    text = search_table(result(), top=3, latex=True)
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 3
    assert all(line.startswith("%") or not line or line[0] == "\\" or line.endswith(r"\\") for line in text.split("\n"))


def test_a_table_has_agreement_models_ranking_and_reasons():
    text = search_table(result(), top=3)
    assert text.startswith("space: widths\n")
    agreement, models = rows(text, SET)
    # Places 2, 4.5, 4.5, 3, 1 (who failed is last) and 1 to 5: -3.5 / sqrt(9.5 * 10).
    assert agreement[1] == "5"
    assert agreement[2].startswith("-0.36 [")
    assert agreement[4:] == ["1", "-", "-", "30.00", "10.00"]
    assert models == [SET, "6", "6 x 9", "45", "1", "width=2", "20.00", "20.00"]
    (wide,) = rows(text, "width=5")
    assert wide == ["width=5", "-", "50.00 (1)", "50.00 (1)"]
    assert rows(text, "width=3") == [["width=3", "75.00 (1)", "30.00 (3)", "30.00 (3)"]], "equal ones share a place"
    assert rows(text, "width=2") == [], "three are shown"
    assert "unfit: width=9: too wide\n" in text
    assert text.endswith("failed: width=5 on a.h5: the loss blew up")


def test_a_halving_says_what_it_saves():
    assert "halving: 20 epochs instead of 45 for full training, 55.56 % saved" in search_table(
        result(halves=True), top=3
    )


def test_without_a_reference_there_is_no_agreement():
    text = search_table(result(kind="none", reference=None), top=3)
    assert "Spearman" not in text
    assert rows(text, SET) == [[SET, "6", "6 x 9", "45", "1", "width=2", "-", "-"]]


def test_csv_has_a_row_for_every_candidate():
    found = {row["candidate"]: row for row in csv.DictReader(io.StringIO(as_csv(result())))}
    assert list(found) == ["width=5", "width=4", "width=3", "width=2", "width=1", "width=9"]
    two = found["width=2"]
    assert (two["width"], two["a.h5 accuracy"], two["a.h5 epochs"], two["a.h5 seconds"]) == ("2", "0.75", "9", "9.0")
    assert (two["reference accuracy"], two["test accuracy"], two["unfit"]) == ("0.2", "0.2", "")
    assert (found["width=5"]["a.h5 accuracy"], found["width=5"]["a.h5 error"]) == ("", "the loss blew up")
    assert found["width=9"]["unfit"] == "too wide"


def test_json_holds_it_all_as_plain_values():
    found = json.loads(json.dumps(result().to_json()))
    assert (found["space"], found["halving"]) == ("widths", None)
    first, second = found["proxies"]
    assert (first["name"], first["best"], first["all"]["n"], first["regrets"]) == (
        SET,
        "width=2",
        5,
        {"1": pytest.approx(0.3), "3": pytest.approx(0.1)},
    )
    assert second["all"]["spearman"]["value"] == pytest.approx(1)
    assert found["candidates"][0]["scores"]["reference"] == {
        "accuracy": 0.5,
        "accuracies": [0.5],
        "seconds": 5.0,
        "epochs": 5,
        "rung": 0,
        "error": None,
    }


def test_a_scatter_plot_is_a_picture_and_replaces_none_unasked(tmp_path):
    file = tmp_path / "s.png"
    draw_scatter(result(), file)
    with Image.open(file) as picture:
        wide, marked = picture.size, picture.text["Software"]
    assert marked == "atom-plugin"
    with pytest.raises(StoreError, match="already exists"):
        draw_scatter(result(), file)
    search = search_over(widths(1, 2, 3))
    draw_scatter(search.run(LookedUp(reached)), file, force=True)
    with Image.open(file) as picture:
        assert picture.size[0] < wide[0], "a panel for every proxy"
    with pytest.raises(ConfigError, match="found no candidate with an accuracy on a proxy and on the reference"):
        draw_scatter(result(kind="none", reference=None), tmp_path / "none.png")

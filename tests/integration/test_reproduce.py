"""benchmarks/reproduce.py makes cells of a table from end to end."""

from __future__ import annotations

import pytest

pytest.importorskip("tomllib", reason="presets are TOML, which Python reads from 3.11 on")

import reproduce

TINY = [
    "--dataset",
    "digits",
    "--recipe",
    "atom",
    "--iterations",
    "2",
    "--epochs",
    "1",
    "--seeds",
    "2",
    "--networks",
    "2",
]
NETWORK = ["--width", "4", "--depth", "2", "--real-batch", "4"]


@pytest.mark.auto_precision("float32")
def test_cells_are_made_once_and_one_that_fails_leaves_the_others(tmp_path, capsys):
    rows = ["--preset", "atom-table-1/random", "--preset", "atom-table-1/dm"]
    options = [*rows, "--ipc", "1", *TINY, "--device", "cpu", "--output", str(tmp_path)]
    given = reproduce.options_of([*options, "--", *NETWORK])
    (random,) = reproduce.load_presets("atom-table-1/random")
    broken = reproduce.set_path(reproduce.set_command(random, "1", 0, given), random, "1", 0, given)
    broken.mkdir()  # where its first set should be
    assert reproduce.main([*options, "--", *NETWORK]) == 1
    (line,) = reproduce.read_lines(tmp_path / "cells.jsonl")
    assert (line["row"], line["column"], line["data"], line["selection"]) == ("dm", "1", "digits", None)
    assert [len(one) for one in line["accuracies"]] == [2, 2]
    assert (line["config"]["matcher"], line["config"]["iterations"], line["training"]["epochs"]) == ("dm", 2, 1)
    run = {"recipe": "atom", "iterations": 2, "epochs": 1, "sets": 2, "networks": 2, "options": " ".join(NETWORK)}
    assert line["run"] == run
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.h5") if path != broken}
    broken.rmdir()
    capsys.readouterr()
    reproduce.main([*options, "--list", "--", *NETWORK])
    said = [text.split(",")[0] for text in capsys.readouterr().out.splitlines()]
    assert said == ["owed  atom-table-1/random", "done  atom-table-1/dm"]
    assert reproduce.main([*options, "--", *NETWORK]) == 0
    lines = reproduce.read_lines(tmp_path / "cells.jsonl")
    assert [(line["row"], line["selection"]) for line in lines] == [("dm", None), ("random", "random")]
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_a_torn_line_is_no_cell_and_a_foreign_one_or_an_unknown_preset_is_one_line(tmp_path):
    (tmp_path / "cells.jsonl").write_text('{"table": "ATOM, table 1"}\n{"tab')
    assert reproduce.read_lines(tmp_path / "cells.jsonl") == [{"table": "ATOM, table 1"}]
    (tmp_path / "cells.jsonl").write_text('{"table": "ATOM, table 1"}\nmine\n')
    with pytest.raises(SystemExit, match=r"cells\.jsonl, line 2: is not JSON .*; remove the line"):
        reproduce.read_lines(tmp_path / "cells.jsonl")
    with pytest.raises(SystemExit, match="no preset fits 'atom-table-9'"):
        reproduce.main(["--preset", "atom-table-9"])

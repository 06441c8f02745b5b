"""`consume evaluate` in several processes: its networks are dealt among them, and reach what one process's do."""

from __future__ import annotations

import json
import os
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch
from groups import in_processes

from atom_plugin.cli.main import main
from atom_plugin.store.synthetic_set import SyntheticSet

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes as POSIX has them")


def evaluate(folder: Path, *more: str) -> tuple[int, str, str]:
    os.chdir(folder)
    command = ["consume", "evaluate", "random.h5", "herding.h5", "--epochs", "2", "--repeats", "3", "--quiet", "--json"]
    command += ["--precision", "float32"]
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as errors:
        code = main([*command, *more])
    return code, out.getvalue(), errors.getvalue()


def make(folder: Path, name: str, source: tuple[str, ...]) -> tuple[int, str]:
    """A distilled set called ``name``, as what its images start from; the exit code, and what was said."""
    os.chdir(folder)
    tiny = ("--ipc", "1", "--iterations", "2", "--real-batch", "4", "--width", "8", *source)
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as errors:
        code = main(["distill", *tiny, "--image-init", name, "-o", f"{name}.h5"])
    return code, errors.getvalue()


@pytest.fixture
def sets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("random", "herding"):
        command = ["select", "--method", name, "--ipc", "2", "--quiet", "--precision", "float32", "-o", f"{name}.h5"]
        assert main(command) == 0
    return tmp_path


def test_two_processes_share_the_networks(sets, capsys):
    capsys.readouterr()
    code, expected, errors = evaluate(sets)
    assert code == 0, errors
    (code, out, errors), (other_code, nothing, other_errors) = in_processes(2, evaluate, sets, "--results", "r.jsonl")
    assert (code, other_code) == (0, 0), (errors, other_errors)
    assert (nothing, errors, other_errors) == ("", "", "")
    assert [row["accuracies"] for row in json.loads(out)] == [row["accuracies"] for row in json.loads(expected)]
    lines = (sets / "r.jsonl").read_bytes()
    assert lines.count(b"\n") == 6
    code, again, _ = evaluate(sets, "--results", "r.jsonl")
    assert (code, (sets / "r.jsonl").read_bytes()) == (0, lines), "all networks are in the file"
    assert [row["accuracies"] for row in json.loads(again)] == [row["accuracies"] for row in json.loads(out)]


def on_validation(folder: Path) -> tuple[int, str, str]:
    return evaluate(folder, "--on", "validation")


def test_processes_make_and_measure_sets_with_one_validation_part(tmp_path):
    source = ("--validation", "0.1", "--quiet", "--precision", "float32")
    made = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        for name in ("random", "herding"):  # each as a command is: with a group, and a store of keys, of its own
            assert [code for code, _ in in_processes(processes, make, folder, name, source)] == [0] * processes
        made[processes] = [SyntheticSet.load(folder / f"{name}.h5") for name in ("random", "herding")]
        assert {held.provenance.source["options"]["validation"] for held in made[processes]} == {0.1}
    for one, two in zip(made[1], made[2], strict=True):
        torch.testing.assert_close(one.images, two.images, rtol=1e-3, atol=2e-4)
        assert one.provenance.source == two.provenance.source
    code, expected, errors = on_validation(tmp_path / "1")
    assert code == 0, errors
    (code, out, errors), _ = in_processes(2, on_validation, tmp_path / "1")
    assert code == 0, errors
    assert [(row["on"], row["test_images"]) for row in json.loads(out)] == [("validation", 144)] * 2
    assert [row["accuracies"] for row in json.loads(out)] == [row["accuracies"] for row in json.loads(expected)]


def test_a_model_that_fails_in_one_process_stands_in_the_table_of_all(sets):
    models = ("--models", "convnet,timm:inception_v4", "--repeats", "1")
    (code, out, errors), (other_code, _, other_errors) = in_processes(2, evaluate, sets, *models)
    assert (code, other_code) == (0, 0)
    assert "inception" not in errors + other_errors
    assert sorted(row["error"] is None for row in json.loads(out)) == [False, False, True, True]

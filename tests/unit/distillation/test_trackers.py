"""The course of a run goes to every tracker, and none of them can end the run."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from atom_plugin.cli.main import main
from atom_plugin.distillation.trackers import TRACKERS, tracked
from atom_plugin.errors import ConfigError, MissingExtraError, PluginError

OPENED: list[Noted] = []


@TRACKERS.register("noted")
class Noted:
    """Keeps what it is told; fails at the step that its target names."""

    def __init__(self, target: str, *, name: str, config: Mapping[str, Any]) -> None:
        self.target, self.name, self.config = target, name, config
        self.told: list[tuple[int, dict[str, float]]] = []
        self.closed = 0
        OPENED.append(self)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if str(step) == self.target:
            raise ConnectionError("no network")
        self.told.append((step, dict(values)))

    def close(self) -> None:
        self.closed += 1
        if self.target == "close":
            raise ConnectionError("no network")


@pytest.fixture(autouse=True)
def none_opened() -> None:
    OPENED.clear()


def test_all_are_told_and_closed() -> None:
    with tracked(["noted:a:b", "noted"], name="run", config={"ipc": 1}) as both:
        both.log(1, {"loss": 2.0})
    first, second = OPENED
    assert (first.target, second.target) == ("a:b", "") and first.name == "run" and first.config == {"ipc": 1}
    assert first.told == second.told == [(1, {"loss": 2.0})] and first.closed == second.closed == 1


def test_one_that_fails_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="atom_plugin")
    with tracked(["noted:2", "noted:close"], name="run", config={}) as both:
        for step in (1, 2, 3):
            both.log(step, {"loss": 1.0})
    first, second = OPENED
    assert [step for step, _ in first.told] == [1] and [step for step, _ in second.told] == [1, 2, 3]
    left, unclosed = caplog.messages
    assert "noted:2 is left out from step 2 on: ConnectionError: no network" in left
    assert "noted:close could not be closed" in unclosed


def test_an_unknown_one_is_refused_before_any_is_opened() -> None:
    with (
        pytest.raises(PluginError, match="no tracker is called 'tensorbord'; did you mean 'tensorboard'"),
        tracked(["noted", "tensorbord:x"], name="run", config={}),
    ):
        pass
    assert not OPENED


def test_tensorboard_needs_a_folder_and_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    make = TRACKERS.get("tensorboard")
    with pytest.raises(ConfigError, match="--tensorboard FOLDER"):
        make("", name="run", config={})
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtraError, match="pip install tensorboard"):
        make("folder", name="run", config={})


def test_a_run_is_followed(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "distill",
        "--ipc",
        "1",
        "--iterations",
        "4",
        "--width",
        "8",
        "--real-batch",
        "2",
        "--precision",
        "float32",
    ]
    words += ["--device", "cpu", "--quiet", "--validation", "0.2", "--evaluate-every", "2", "-o", "a.h5"]
    assert main([*words, "--tracker", "noted:x"]) == 0
    (found,) = OPENED
    records = [json.loads(line) for line in Path("a.log.jsonl").read_text().splitlines()]
    assert [{"iteration": step, **values} for step, values in found.told] == records
    assert found.name == "a" and found.config["matcher"] == "atom" and found.closed == 1
    assert "accuracy" in found.told[3][1]
    capsys.readouterr()
    assert main([*words, "--force", "--tracker", "nothing"]) == 1
    assert "no tracker is called 'nothing'" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with tracked([f"tensorboard:{tmp_path / 'logs'}"], name="run", config={"ipc": 1}) as board:
        board.log(1, {"loss": 2.0, "accuracy": 0.5})
        board.log(2, {"loss": 1.0})
    events = accumulator.EventAccumulator(str(tmp_path / "logs")).Reload()
    assert [(each.step, each.value) for each in events.Scalars("loss")] == [(1, 2.0), (2, 1.0)]
    assert [(each.step, each.value) for each in events.Scalars("accuracy")] == [(1, 0.5)]

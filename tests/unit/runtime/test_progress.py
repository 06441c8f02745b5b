"""Phases are told as they begin, and progress is plain lines where no terminal is."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import pytest

from atom_plugin.runtime.progress import ProgressLines, bars_of_terminals, phase, progress_bar


def test_a_phase_is_told_at_once_and_its_time_where_it_took_any(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, logger="atom_plugin")
    with phase("reading digits"):
        assert caplog.messages == ["reading digits"]
    assert caplog.messages == ["reading digits"]
    times = iter([10.0, 12.25])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    with phase("fitting"):
        pass
    assert caplog.messages[1:] == ["fitting", "fitting: 2.2 s"]


def test_a_phase_that_fails_tells_no_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="atom_plugin")
    with pytest.raises(KeyError), phase("reading"):
        raise KeyError
    assert caplog.messages == ["reading"]


def test_lines_come_now_and_then_and_in_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    with progress_bar(1000, unit="step", desc="atom\x1b[0m", initial=10) as bar:
        assert isinstance(bar, ProgressLines), "stderr of a test is no terminal"
        for second in range(100):
            clock[0] = float(second)
            bar.set_postfix(loss=second, refresh=False)
            bar.update(9)
        bar.set_description("last")
        bar.set_postfix_str("one failed")
        bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        r"atom\x1b[0m: 64 of 1,000 steps, 5 s, loss 5",
        r"atom\x1b[0m: 334 of 1,000 steps, 35 s, loss 35",
        r"atom\x1b[0m: 604 of 1,000 steps, 65 s, loss 65",
        r"atom\x1b[0m: 874 of 1,000 steps, 95 s, loss 95",
        "last: 911 of 1,000 steps, 99 s, one failed",
    ]


def test_nothing_done_and_nothing_asked_for_is_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(10, unit="step", initial=10):
        pass
    with progress_bar(10, unit="step", hidden=True) as bar:
        bar.update()
        bar.set_postfix(loss=1)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_has_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress_bar(2, unit="step", desc="atom") as bar:
        bar.update(2)
    assert "\r" in capsys.readouterr().err


def test_bars_of_other_libraries_reach_terminals_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tqdm import tqdm

    def work() -> Any:
        with bars_of_terminals():
            for _ in tqdm(range(3), mininterval=0):
                pass
            sys.stderr.write("a remark\n")

    work()
    assert capsys.readouterr().err == "a remark\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    work()
    assert "\r" in capsys.readouterr().err

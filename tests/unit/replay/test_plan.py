"""Which runs a comparison has, and what becomes of the files that are there already."""

from __future__ import annotations

import json

import pytest

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.replay.plan import ComparisonFiles, ReplayRun, plan_runs
from atom_plugin.replay.results import StreamResult

CONFIGS = {"replay": {"epochs": 5, "network": {"width": 8}}}
MEMORIES = {"ipc": 2, "distillation": {"iterations": 3}}


@pytest.fixture
def files(tmp_path):
    return ComparisonFiles(tmp_path / "a.b")


def result(config=CONFIGS["replay"], **changes):
    values = {"policy": "atom", "mode": "replay", "order": 0, "network": 0}
    return StreamResult(
        accuracies=((1.0,),),
        test_images=(3,),
        memory_images=2,
        memory_bytes=8,
        seconds=1.0,
        config=config,
        **values | changes,
    )


def snapshot(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_runs_of_one_order_stand_together_and_every_policy_has_all_modes():
    runs = plan_runs(["atom", "random"], ["replay", "from-memory"], orders=2, networks=2)
    assert len(runs) == len(set(runs)) == 2 * 2 * 2 * 2
    assert [run.order for run in runs] == [0] * 8 + [1] * 8
    assert runs[:3] == [
        ReplayRun("atom", "replay", 0, 0),
        ReplayRun("atom", "replay", 0, 1),
        ReplayRun("atom", "from-memory", 0, 0),
    ]


def test_a_baseline_runs_once_and_in_its_own_mode_whatever_is_asked_for():
    for modes in (["replay"], ["from-memory"], ["replay", "from-memory", "replay"]):
        runs = plan_runs(["gdumb", "naive", "joint", "real-ipc", "real-bytes"], modes, orders=1, networks=1)
        assert {run.policy: run.mode for run in runs} == {
            "gdumb": "from-memory",
            "naive": "replay",
            "joint": "replay",
            "real-ipc": "replay",
            "real-bytes": "replay",
        }
        assert len(runs) == 5


def test_a_mode_named_twice_counts_once():
    assert len(plan_runs(["atom"], ["replay", "replay"], orders=1, networks=1)) == 1


def test_the_files_stand_beside_each_other_under_the_whole_prefix(files, tmp_path):
    assert (files.results, files.picture, files.folder) == (
        tmp_path / "a.b.jsonl",
        tmp_path / "a.b.png",
        tmp_path / "a.b.memory",
    )


@pytest.mark.parametrize("prefix", [".", "/", "..", "a/.."])
def test_a_prefix_without_a_name_is_refused(prefix):
    from pathlib import Path

    with pytest.raises(ConfigError, match="no file name"):
        ComparisonFiles(Path(prefix))


def test_open_makes_the_folder_and_gives_what_was_appended(files):
    files.refuse_leftovers(resume=False, force=False)
    files.open_results(CONFIGS, MEMORIES, force=False).append(result())
    again = files.open_results(CONFIGS, MEMORIES, force=False)
    assert again.find("atom", "replay", 0, 0) == result()


@pytest.mark.parametrize("suffix", [".jsonl", ".png", ".memory"])
def test_what_is_there_is_kept_unless_resumed_or_forced(files, tmp_path, suffix):
    files.open_results(CONFIGS, MEMORIES, force=False).append(result())
    files.picture.write_bytes(b"picture")
    for path in (files.results, files.picture):
        if path.suffix != suffix:
            path.unlink()
    if suffix != ".memory":
        (files.folder / "configs.json").unlink()
        files.folder.rmdir()
    before = snapshot(tmp_path)
    with pytest.raises(StoreError, match="--resume"):
        files.refuse_leftovers(resume=False, force=False)
    files.refuse_leftovers(resume=True, force=False)
    files.refuse_leftovers(resume=False, force=True)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("how", [{"resume": True, "force": False}, {"resume": False, "force": True}])
def test_a_foreign_folder_is_never_touched(files, tmp_path, how):
    files.folder.mkdir()
    (files.folder / "holiday.txt").write_text("mine")
    with pytest.raises(StoreError, match="not a folder of replay memories"):
        files.refuse_leftovers(**how)
    (tmp_path / "file.memory").write_text("a file")
    with pytest.raises(StoreError, match="not a folder of replay memories"):
        ComparisonFiles(tmp_path / "file").refuse_leftovers(**how)


def test_a_folder_that_a_kill_left_empty_is_ours(files):
    files.folder.mkdir()
    (files.folder / ".0123.tmp").write_bytes(b"")
    files.refuse_leftovers(resume=True, force=False)


@pytest.mark.parametrize("name", ["a.b.jsonl", "a.b.png"])
def test_a_folder_in_the_place_of_a_file_is_found_out_before_any_work(files, tmp_path, name):
    (tmp_path / name).mkdir()
    for resume in (True, False):
        with pytest.raises(StoreError, match="is a folder"):
            files.refuse_leftovers(resume=resume, force=not resume)


def test_a_missing_parent_is_found_out_before_any_work(tmp_path):
    with pytest.raises(StoreError, match="there is no folder"):
        ComparisonFiles(tmp_path / "no" / "a").refuse_leftovers(resume=False, force=False)


def test_other_options_are_refused_by_name_and_change_nothing(files, tmp_path):
    files.open_results(CONFIGS, MEMORIES, force=False)
    before = snapshot(tmp_path)
    with pytest.raises(ConfigError, match=r"network\.width 8 and not 16"):
        files.open_results({"replay": {"epochs": 5, "network": {"width": 16}}}, MEMORIES, force=False)
    # A mode that is added shares the sets of the others, so they must be of the same making.
    with pytest.raises(ConfigError, match=r"sets here .*distillation\.iterations 3 and not 4"):
        files.open_results({"from-memory": {"epochs": 9}}, {"ipc": 2, "distillation": {"iterations": 4}}, force=False)
    assert snapshot(tmp_path) == before
    files.open_results({"from-memory": {"epochs": 9}}, MEMORIES, force=False)
    files.open_results(CONFIGS, MEMORIES, force=False)


def test_results_of_another_configuration_are_refused_where_the_folder_is_gone(files):
    files.results.write_text(json.dumps(result({"epochs": 6}).to_json()) + "\n")
    with pytest.raises(ConfigError, match="epochs 6 and not 5"):
        files.open_results(CONFIGS, MEMORIES, force=False)
    assert not files.folder.exists()


def test_force_starts_over(files, tmp_path):
    files.open_results(CONFIGS, MEMORIES, force=False).append(result())
    for name in ("atom-order0-step1.h5", "atom-replay-order0-network0.state", "a-b-order1-network0.state.memory2.h5"):
        (files.folder / name).write_bytes(b"old")
    other = {"replay": {"epochs": 1}}
    assert files.open_results(other, MEMORIES, force=True).results == ()
    assert [path.name for path in files.folder.iterdir()] == ["configs.json"]
    assert not files.results.exists()


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[1]", b'{"replay": 1}', b"[" * 100_000])
def test_a_damaged_record_is_one_line_that_says_what_to_do(files, content):
    files.folder.mkdir()
    (files.folder / "configs.json").write_bytes(content)
    with pytest.raises(StoreError, match="--force") as caught:
        files.open_results(CONFIGS, MEMORIES, force=False)
    assert "\n" not in str(caught.value)
    assert files.open_results(CONFIGS, MEMORIES, force=True).results == ()

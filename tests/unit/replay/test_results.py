"""One run's result, and the file that collects results: arithmetic, round trips, damage."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import pytest

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.replay.configs import differences
from atom_plugin.replay.results import StreamResult, StreamResultsFile
from atom_plugin.runtime.jsonl import encode

CONFIG = {"dataset": "digits", "steps": 3, "training": {"epochs": 5, "lr": 0.1}}
# Test accuracies (rows: after step; columns: experience), two experiences of 10 images and one of 30.
ROWS = ((0.9,), (0.6, 0.8), (0.5, 0.9, 1.0))


def result(policy="atom", mode="replay", order=0, network=0, **changes) -> StreamResult:
    settings = {
        "accuracies": ROWS,
        "test_images": (10, 10, 30),
        "memory_images": 20,
        "memory_bytes": 5120,
        "seconds": 1.5,
        "config": CONFIG,
    }
    return StreamResult(policy=policy, mode=mode, order=order, network=network, **{**settings, **changes})


@pytest.fixture
def held(tmp_path) -> StreamResultsFile:
    """A file of two results."""
    file = StreamResultsFile(tmp_path / "a.jsonl")
    file.append(result())
    file.append(result(network=1))
    return file


def test_curve_weighs_experiences_by_their_test_images():
    assert result().curve == pytest.approx((0.9, 0.7, (0.5 * 10 + 0.9 * 10 + 1.0 * 30) / 50))
    assert result().final == result().curve[-1]


def test_forgetting_is_first_minus_last_and_leaves_out_the_last_experience():
    assert result().forgetting == pytest.approx(((0.9 - 0.5) + (0.8 - 0.9)) / 2)
    assert result().backward_transfer == -result().forgetting
    single = result(accuracies=((0.9,),), test_images=(10,))
    assert (single.forgetting, str(single.backward_transfer)) == (0.0, "0.0")


def test_forgetting_and_backward_transfer_are_avalanches():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what avalanche and its dependencies say at import is not ours to mend
        from avalanche.evaluation.metrics.forgetting_bwt import BWT, Forgetting
    for metric, ours in ((Forgetting(), result().forgetting), (BWT(), result().backward_transfer)):
        for step, row in enumerate(ROWS):
            for experience, value in enumerate(row):
                metric.update(experience, value, initial=experience == step)
        theirs = metric.result()
        assert sorted(theirs) == [0, 1]
        assert ours == pytest.approx(sum(theirs.values()) / len(theirs))


def test_json_round_trip_is_exact_and_gives_plain_values():
    odd = result(accuracies=((1 / 3,), (0, 1), (0.1 + 0.2, 1e-300, 1)), config={"ops": ("a", "b"), "none": None})
    again = StreamResult.from_json(json.loads(json.dumps(odd.to_json())))
    assert again == odd
    assert again.config == {"ops": ["a", "b"], "none": None}
    assert StreamResult.from_json(odd.to_json()) == odd


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"policy": ""}, "found policy ''"),
        ({"mode": "rehearsal"}, "found mode 'rehearsal', expected one of replay, from-memory"),
        ({"order": -1}, "found order -1"),
        ({"network": True}, "found network True"),
        ({"memory_bytes": 1.5}, "found memory_bytes 1.5"),
        ({"seconds": float("nan")}, "found seconds nan"),
        ({"seconds": float("inf")}, "found seconds inf"),
        ({"accuracies": ()}, "expected a tuple of rows"),
        ({"accuracies": 5}, "expected a tuple of rows"),
        ({"accuracies": ((0.9,), (0.6,), (0.5, 0.9, 1.0))}, "as row 1 of the accuracies, expected a tuple of 2"),
        ({"accuracies": (0.9, 0.6, 0.5)}, "found 0.9 as row 0"),
        ({"accuracies": ((90.0,), *ROWS[1:])}, "found accuracy 90.0 in row 0, expected a number from 0 to 1"),
        ({"accuracies": ((float("nan"),), *ROWS[1:])}, "found accuracy nan"),
        ({"test_images": (10, 10)}, "expected 3 positive integers"),
        ({"test_images": (10, 0, 30)}, "expected 3 positive integers"),
        ({"config": {"path": object()}}, "must have JSON values"),
        ({"config": {"lr": float("nan")}}, "must have JSON values"),
        ({"config": [1]}, "expected a dict"),
    ],
)
def test_impossible_results_are_refused_in_one_line(changes, words):
    with pytest.raises(ConfigError) as caught:
        result(**changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "somebody's"}, 'found format "somebody\'s"'),
        ({"format_version": 2}, "found format version 2, this release reads 1; update"),
        ({"format_version": None}, "found format version None"),
        ({"seconds": "long"}, "found seconds 'long'.* the record is damaged"),
        ({"accuracies": None}, "found accuracies None.* the record is damaged"),
        ({"extra": 1}, "extra missing or unknown"),
    ],
)
def test_foreign_and_damaged_records_are_refused(changes, words):
    with pytest.raises(StoreError, match=words):
        StreamResult.from_json({**result().to_json(), **changes})


@pytest.mark.parametrize("record", [None, [], "text", 5, {}])
def test_what_is_no_record_at_all_is_refused(record):
    with pytest.raises(StoreError, match="found format None, expected format 'atom-plugin/stream-result'"):
        StreamResult.from_json(record)


def test_missing_keys_are_named():
    record = result().to_json()
    del record["seconds"], record["order"]
    with pytest.raises(StoreError, match="order, seconds missing or unknown"):
        StreamResult.from_json(record)


def test_results_come_back_in_order_and_are_found_by_key(held):
    again = StreamResultsFile(held.path)
    assert again.results == held.results == (result(), result(network=1))
    assert again.find("atom", "replay", 0, 1) == result(network=1)
    for key in (("dm", "replay", 0, 1), ("atom", "from-memory", 0, 1), ("atom", "replay", 1, 1)):
        assert again.find(*key) is None
    assert len(held.path.read_text().splitlines()) == 2


def test_a_missing_or_empty_file_holds_nothing(tmp_path):
    path = tmp_path / "a.jsonl"
    assert StreamResultsFile(path).results == ()
    assert not path.exists()
    path.touch()
    StreamResultsFile(path).append(result())
    assert StreamResultsFile(path).results == (result(),)


def test_a_line_torn_anywhere_is_passed_over_and_the_file_only_grows(held):
    data = held.path.read_bytes()
    start = data.index(b"\n") + 1
    for cut in (*range(start, len(data) - 2, 11), len(data) - 2, len(data) - 1):
        held.path.write_bytes(data[:cut])
        file = StreamResultsFile(held.path)
        whole = cut == len(data) - 1  # only the newline is missing
        assert file.results == held.results[: 2 if whole else 1], cut
        file.append(result(network=2))
        assert StreamResultsFile(held.path).results == (*file.results[:-1], result(network=2))
        assert held.path.read_bytes().startswith(data[:cut].removesuffix(b"\n") + b"\n")
    held.path.write_bytes(data[:30])  # in the middle of the very first
    assert StreamResultsFile(held.path).results == ()


def test_two_processes_may_append_to_one_file(held):
    other = StreamResultsFile(held.path)
    other.append(result("dm"))
    held.append(result("random"))
    assert [each.policy for each in StreamResultsFile(held.path).results] == ["atom", "atom", "dm", "random"]


def test_a_torn_line_anywhere_is_passed_over_and_a_damaged_one_is_named(held):
    lines = held.path.read_text().splitlines()
    held.path.write_text(f"{lines[0][:50]}\n{lines[1]}\n")
    assert StreamResultsFile(held.path).results == (result(network=1),)
    held.path.write_text(f"{lines[0]}\n\n{lines[1].replace('0.9', '9')}\n")
    with pytest.raises(StoreError, match=r"a\.jsonl, line 3: found accuracy 9 .*damaged"):
        StreamResultsFile(held.path)


def test_a_run_that_two_processes_did_counts_once(held):
    held.path.write_bytes(held.path.read_bytes() + encode(replace(result(), seconds=9.0).to_json()))
    assert StreamResultsFile(held.path).results == held.results


@pytest.mark.parametrize(
    "data", [b"my notes", b'{"a": 1}', b'{"iteration": 1, "loss": 2}\n', b"\x89HDF\r\n\x1a\n\x00", b"\xff"]
)
def test_somebody_elses_file_is_refused_and_kept(tmp_path, data):
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"a\.jsonl, line 1: "):
        StreamResultsFile(path)
    assert path.read_bytes() == data


def test_another_configuration_is_refused_and_the_differences_are_named(held):
    held.require("replay", CONFIG)
    other = {"dataset": "digits", "steps": 5, "training": {"epochs": 5, "lr": "0.1"}, "ipc": 1}
    words = 'steps 3 and not 5, training.lr 0.1 and not "0.1", ipc absent and not 1; give the same options'
    with pytest.raises(ConfigError) as caught:
        held.require("replay", other)
    assert words in str(caught.value)
    with pytest.raises(ConfigError, match="steps 3 and not 5"):
        held.append(result(network=2, config=other))
    assert StreamResultsFile(held.path).results == held.results
    held.append(result(mode="from-memory", config=other))  # each mode has its own


def test_a_file_of_two_configurations_is_refused(held):
    line = json.dumps(result(network=5, config={**CONFIG, "steps": 4}).to_json())
    held.path.write_text(held.path.read_text() + line + "\n")
    with pytest.raises(ConfigError, match=r"replay runs of two configurations .* steps 3 and not 4"):
        StreamResultsFile(held.path)


def test_a_run_is_not_appended_twice(held):
    with pytest.raises(StoreError, match="already has order 0, network 1 of atom in mode replay"):
        held.append(replace(result(network=1), seconds=3.0))
    assert len(StreamResultsFile(held.path).results) == 2


def test_files_that_cannot_be_are_refused_before_any_run(tmp_path):
    with pytest.raises(StoreError, match="there is no folder"):
        StreamResultsFile(tmp_path / "no" / "a.jsonl")
    with pytest.raises(StoreError, match="cannot be read"):
        StreamResultsFile(tmp_path)


def test_a_file_that_vanished_meanwhile_is_made_anew(held):
    held.path.unlink()
    held.append(result(network=2))
    assert StreamResultsFile(held.path).results == (result(network=2),)


def test_differences_of_equal_configs_are_none():
    assert differences(CONFIG, dict(reversed(CONFIG.items()))) == ""

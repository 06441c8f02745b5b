"""Files of JSON lines: what is passed over, what is refused, and that writers beside each other lose nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.runtime import jsonl

LINES = jsonl.LineFormat(name="a file of trials", value="test/trial", version=2)
LOG = jsonl.LineFormat(name="a log", key="step")


def trial(number: int, version: int = 1) -> dict[str, object]:
    return {"format": "test/trial", "format_version": version, "number": number}


def numbers(path) -> list[int]:
    return jsonl.read(path, LINES, lambda record: record["number"])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.jsonl"


def test_records_come_back_in_order_and_a_missing_file_holds_none(path):
    assert numbers(path) == []
    for number in (3, 1, 2):
        jsonl.append(path, trial(number, version=number % 2 + 1))
    assert numbers(path) == [3, 1, 2]
    assert path.read_bytes() == b"".join(jsonl.encode(trial(n, version=n % 2 + 1)) for n in (3, 1, 2))


@pytest.mark.parametrize("kept", [1, 8, 12, 30, len(jsonl.encode(trial(9))) - 2])
def test_the_beginning_of_a_line_is_passed_over_wherever_it_stands(path, kept):
    torn = jsonl.encode(trial(9))[:kept]
    path.write_bytes(torn + b"\n\n" + jsonl.encode(trial(1)) + b" \r\n" + torn)
    assert numbers(path) == [1]
    jsonl.append(path, trial(2))
    assert numbers(path) == [1, 2]


@pytest.mark.parametrize("kept", [1, 12, 40])
def test_a_line_right_behind_a_torn_one_is_read(path, kept):
    """Of a writer that looked for a torn end in the moment before it was torn."""
    torn = jsonl.encode(trial(9))[:kept]
    path.write_bytes(torn + jsonl.encode({**trial(1), "text": '{"format": "test/trial"'}))
    assert numbers(path) == [1]


def test_a_line_that_lacks_only_its_end_counts(path):
    path.write_bytes(jsonl.encode(trial(1))[:-1])
    jsonl.append(path, trial(2))
    assert numbers(path) == [1, 2]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("my notes", "is not JSON .*; remove the line, or name a file of trials"),
        ("\x00\x00", "is not JSON"),
        ("[" * 100_000, "found values nested .* at most 64; remove the line"),
        ('{"format": "test/trial", "number": NaN}', "found the number NaN, expected a finite one; remove the line"),
        (f'{{"format": "test/trial", "number": {10**30}}}', "found a whole number of 31 digits"),
        ('{"formal": 1', "is not JSON"),
        ('{"format": "test/other", "a', "is not JSON"),
        ("null", "found format None, expected format 'test/trial'; name a file of trials"),
        ("[1]", "found format None"),
        ('{"format": "test/other"}', "found format 'test/other', expected format 'test/trial'"),
        (json.dumps(trial(1, version=3)), "found format version 3, this release reads 2; update"),
        (json.dumps(trial(1, version=0)), "found format version 0"),
        (json.dumps(trial(1, version=True)), "found format version True"),
        ('{"format": "test/trial"}', "found format version None"),
    ],
)
def test_any_other_line_is_an_error_with_its_number(path, line, words):
    path.write_text(f"{json.dumps(trial(1))}\n\n{line}\n{json.dumps(trial(2))}\n")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=rf"a\.jsonl, line 3: {words}") as caught:
        numbers(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_bytes_that_are_no_text_are_an_error(path):
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(StoreError, match="line 1: is not JSON"):
        numbers(path)


def test_what_the_reader_of_a_record_refuses_is_an_error_of_its_line(path):
    def refuse(record):
        raise ConfigError(f"found {record['step']}, expected another")

    path.write_text('{"step": 1}\n')
    with pytest.raises(StoreError, match="line 1: found 1, expected another"):
        jsonl.read(path, LOG, refuse)
    path.write_text('{"other": 1}\n')
    with pytest.raises(StoreError, match="found step None, expected a line with step; name a log"):
        jsonl.read(path, LOG, refuse)


def test_places_that_cannot_be(tmp_path):
    with pytest.raises(StoreError, match=r"cannot be read.*name a file of trials"):
        numbers(tmp_path)
    with pytest.raises(StoreError, match="there is no folder"):
        jsonl.append(tmp_path / "no" / "a.jsonl", trial(1))
    with pytest.raises(ValueError, match="not JSON compliant"):
        jsonl.encode({"loss": float("nan")})


WRITER = """
import sys, time
from pathlib import Path
from atom_plugin.runtime import jsonl
path, go, first = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
while not go.exists():
    time.sleep(0.001)
for number in range(first, first + 300):
    if number % 3 == 0:  # what a kill leaves: the next line, whoever writes it, must not be glued to it
        with path.open("ab", buffering=0) as file:
            file.write(b'{"format": "test/trial", "format_ver')
    jsonl.append(path, {"format": "test/trial", "format_version": 1, "number": number, "filler": "x" * 5000})
"""


def test_two_processes_that_append_around_torn_lines_lose_none(path, tmp_path):
    path.write_bytes(jsonl.encode(trial(-1)) + jsonl.encode(trial(9))[:20])
    go = tmp_path / "go"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, path, go, first], stdout=subprocess.PIPE, text=True)
        for first in ("0", "1000")
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    go.touch()
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    for writer in writers:
        writer.stdout.close()
    found = numbers(path)
    assert found[0] == -1
    assert sorted(found[1:]) == [*range(300), *range(1000, 1300)]
    for first in (0, 1000):
        own = [number for number in found if first <= number < first + 300]
        assert own == sorted(own)

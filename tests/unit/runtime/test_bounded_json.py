"""JSON of others: plain values come back, and what no later step could stand is refused at once."""

from __future__ import annotations

import json
import time

import pytest

from atom_plugin.runtime import bounded_json
from atom_plugin.runtime.bounded_json import MOST_NESTED, OutOfBounds, check, parse


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    "value", [None, True, 0, -(2**63), 2**64 - 1, 1.5, 1e300, "a\ud800", [], {"a": [1, {"b": None}]}, [[[]]]]
)
def test_plain_values_come_back(value):
    assert parse(json.dumps(value)) == value
    assert parse(json.dumps(value).encode()) == value


def test_the_deepest_value_is_read_and_the_next_is_not():
    assert parse(nested(MOST_NESTED + 1)) is not None
    for text in (nested(MOST_NESTED + 2), '{"a":' * 100 + "1" + "}" * 100):
        with pytest.raises(OutOfBounds, match=f"more than {MOST_NESTED} deep"):
            parse(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (nested(900), f"expected at most {MOST_NESTED}"),
        (nested(200_000), f"expected at most {MOST_NESTED}"),
        ("[" * 200_000, f"expected at most {MOST_NESTED}"),
        ("NaN", "number NaN"),
        ('{"a": [-Infinity]}', "number -Infinity"),
        ("1e999", "number inf"),
        ("[1, -1e999]", "number -inf"),
        (str(2**64), "beyond 64 bits"),
        (str(-(2**63) - 1), "beyond 64 bits"),
        ("9" * 400, "of 400 digits"),
        ("9" * 100_000, "of 100000 digits"),
    ],
)
def test_what_is_out_of_bounds_is_refused_in_words(text, words):
    with pytest.raises(OutOfBounds, match=words):
        parse(text)


@pytest.mark.parametrize("text", ["", "{", "nul", b"\xff\xfe", "[1,]", "1 2"])
def test_what_is_no_json_is_a_value_error_of_another_kind(text):
    with pytest.raises(ValueError, match=r".") as caught:
        parse(text)
    assert not isinstance(caught.value, OutOfBounds)


def test_a_value_that_holds_itself_or_much_in_little_ends_at_once(monkeypatch):
    monkeypatch.setattr(bounded_json, "MOST_VALUES", 100_000)
    endless: list[object] = []
    endless += [endless, endless]
    many: list[object] = []
    for _ in range(20):
        many = [many] * 10
    start = time.perf_counter()
    for value in (endless, many):
        with pytest.raises(OutOfBounds, match="values, expected at most 100,000"):
            check(value)
    assert time.perf_counter() - start < 5

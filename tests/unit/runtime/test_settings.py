"""Fields of configs: types, bounds and names are checked when a config is made, whatever is given."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from atom_plugin.errors import ConfigError
from atom_plugin.runtime.settings import FLOAT32_MAX, about, check_numbers, check_values, config_class, current_names


@config_class
@dataclass(frozen=True, kw_only=True)
class Example:
    count: int = field(metadata=about("How many.", at_least=1))
    rate: float = field(default=0.5, metadata=about("How fast.", above=0))
    kind: str = field(default="a", metadata=about("Which.", choices=("a", "b"), was="sort"))
    on: bool = field(default=True, metadata=about("Whether."))
    size: int | None = field(default=None, metadata=about("How large.", at_most=9))
    options: Mapping[str, Any] = field(default_factory=dict, metadata=about("The rest."))

    def __post_init__(self) -> None:
        check_values(self)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "count"),
        ({"count": 0}, "count must be at least 1, not 0"),
        ({"count": 1.5}, "count must be a whole number, not 1.5"),
        ({"count": True}, "count must be a whole number, not True"),
        ({"count": "3"}, "count must be a whole number, not '3'"),
        ({"count": None}, "count must be a whole number, not None"),
        ({"count": 1, "rate": 0}, "rate must be above 0"),
        ({"count": 1, "rate": math.nan}, "rate must be above 0, not nan"),
        ({"count": 1, "rate": math.inf}, "rate must be finite"),
        ({"count": 1, "rate": 1e300}, "rate must be finite in float32"),
        ({"count": 1, "rate": "fast"}, "rate must be a number, not 'fast'"),
        ({"count": 1, "rate": False}, "rate must be a number, not False"),
        ({"count": 1, "kind": "c"}, "kind must be one of a, b, not 'c'"),
        ({"count": 1, "kind": ["a"]}, "kind must be a text"),
        ({"count": 1, "on": 1}, "on must be true or false, not 1"),
        ({"count": 1, "size": 10}, "size must be at most 9"),
        ({"count": 1, "options": [1]}, "options must be a mapping"),
        ({"count": 1, "cuont": 1}, "did you mean 'count'"),
        ({"count": 1, "sort": "a"}, "sort is the former name of kind"),
    ],
)
def test_what_a_field_cannot_hold_names_the_field_and_the_value(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Example(**given)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_it_can_hold_is_kept_as_it_is() -> None:
    made = Example(count=2, rate=FLOAT32_MAX, size=9, options={"a": 1})
    assert (made.count, made.rate, made.size, made.options) == (2, FLOAT32_MAX, 9, {"a": 1})
    assert replace(made, size=None).size is None
    assert copy.deepcopy(made) == pickle.loads(pickle.dumps(made)) == made


def test_stored_names_become_todays() -> None:
    assert current_names(Example, {"sort": "b", "count": 1}) == {"kind": "b", "count": 1}


@pytest.mark.parametrize(
    ("default", "given", "said"),
    [
        (1.0, "x", r"a number \(default: 1.0\)"),
        (3, "y", r"a whole number \(default: 3\)"),
        (True, "maybe", "true or false"),
    ],
)
def test_text_in_the_place_of_a_number_is_refused(default, given, said):
    with pytest.raises(ConfigError, match=f"the thing does not accept size='{given}'; it must be {said}"):
        check_numbers("the thing", {"size": default}, {"size": given})


def test_other_options_are_left_to_the_plugin():
    check_numbers("the thing", {"a": None, "b": "png", "c": 1.0}, {"a": "x", "b": "webp", "c": 2, "new": "x"})

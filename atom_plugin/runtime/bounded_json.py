"""Read JSON from untrusted files within bounds, so that no later step has to check it again.

Later steps (a copy, a comparison, an encoder) recurse or take memory, so one rule holds for all of them: the nesting depth and
the number of values are bounded, numbers are finite, and whole numbers fit 64 bits.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

MOST_NESTED = 64  # lists and objects within each other; Python's own recursion ends at some hundreds
MOST_VALUES = (
    10_000_000  # of which a list or a name counts one; a value in a pickle may hold itself, and so have no end
)
_LEAST, _MOST = -(2**63), 2**64 - 1


class OutOfBounds(ValueError):
    """A JSON value that is nested too deep or has too many parts, or a number that has no 64-bit form."""


def parse(text: str | bytes) -> Any:
    """The value of ``text``. Raises ValueError if it is not JSON, and OutOfBounds for values that :func:`check` refuses."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_int=_bounded_int)
    except RecursionError:
        raise OutOfBounds(f"found values nested hundreds deep, expected at most {MOST_NESTED}") from None
    check(value)
    return value


def check(value: Any) -> None:
    """Raise OutOfBounds unless ``value``, of plain JSON types, is nested at most :data:`MOST_NESTED` deep, has at most
    :data:`MOST_VALUES` parts, and all numbers in it are finite and fit 64 bits.
    """
    level, count = [value], 1
    for _ in range(MOST_NESTED + 1):
        for item in level:
            _check_number(item)
        holders = [item for item in level if isinstance(item, dict | list | tuple)]
        count += sum(map(len, holders))
        if count > MOST_VALUES:
            raise OutOfBounds(f"found at least {count:,} values, expected at most {MOST_VALUES:,}")
        level = [inner for item in holders for inner in (item.values() if isinstance(item, dict) else item)]
    if level:
        raise OutOfBounds(f"found values nested more than {MOST_NESTED} deep, expected at most {MOST_NESTED}")


def _check_number(item: Any) -> None:
    if isinstance(item, int) and not _LEAST <= item <= _MOST:
        raise OutOfBounds("found a whole number beyond 64 bits, expected a smaller one")
    if isinstance(item, float) and item - item != 0:
        raise OutOfBounds(f"found the number {item}, expected a finite one")


def _bounded_int(digits: str) -> int:
    # Python converts no more than some thousand digits, and takes long for those.
    if len(digits) > len(str(_LEAST)):
        raise OutOfBounds(f"found a whole number of {len(digits)} digits, expected one that fits 64 bits")
    return int(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise OutOfBounds(f"found the number {name}, expected a finite one")

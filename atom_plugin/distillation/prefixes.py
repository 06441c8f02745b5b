"""The prefixes of a nested set and their weights, from the text of the option."""

from __future__ import annotations

import re

from atom_plugin.errors import ConfigError

_PREFIX = re.compile(r"([0-9]{1,9})(?::([0-9]{1,9}(?:\.[0-9]{1,9})?))?")


def prefix_weights(nested: str, ipc: int) -> dict[int, float]:
    """Weights by counts of images, ascending, including ``ipc``; they sum to 1.

    ``nested`` is "all", or "some" (1, 2, 5, 10 and so on), both with equal weights, or counts joined by commas, each with its
    weight after a colon, or 1: "1:3,5,10". ``ipc`` has the weight 1 if it is not named. Raises ConfigError for anything else.
    """
    if nested == "all":
        weights = dict.fromkeys(range(1, ipc + 1), 1.0)
    elif nested == "some":
        round_ones = (step * 10**power for power in range(len(str(ipc))) for step in (1, 2, 5))
        weights = dict.fromkeys([*(count for count in round_ones if count < ipc), ipc], 1.0)
    else:
        weights = _named(nested, ipc)
    total = sum(weights.values())
    return {count: weight / total for count, weight in weights.items()}


def _named(nested: str, ipc: int) -> dict[int, float]:
    """The counts that the text names, and ``ipc``, ascending."""
    found = [_PREFIX.fullmatch(text.strip()) for text in nested.split(",")]
    weights = {int(each[1]): float(each[2] or 1) for each in found if each is not None}
    if len(weights) < len(found) or not all(1 <= count <= ipc for count in weights) or not all(weights.values()):
        raise ConfigError(
            f"nested must be counts from 1 to ipc ({ipc}) joined by commas, each once, with a weight above 0 after a "
            f"colon if it is not 1 (1:3,{ipc}), or 'some' or 'all', not {nested!r}"
        )
    return dict(sorted({ipc: 1.0, **weights}.items()))

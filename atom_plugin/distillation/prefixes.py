"""The prefixes of a nested set and their weights, from the text of the option."""

from __future__ import annotations

import re

from atom_plugin.errors import ConfigError

_PREFIX = re.compile(r"([0-9]{1,9})(?::([0-9]{1,9}(?:\.[0-9]{1,9})?))?")


def prefix_weights(nested: str, ipc: int) -> dict[int, float]:
    """Weights by counts of images, ascending, including ``ipc``; they sum to 1.

    ``nested`` is "all", or "some" (1, 2, 5, 10 and so on), or counts joined by commas, each with a factor after a colon, or 1:
    "1:3,5,10". ``ipc`` has the factor 1 if it is not named. A weight is the factor times the count: the gradient of an image
    from the mean over k images is 1/k as large, so every image has equal gradients from all prefixes that contain it. Raises
    ConfigError for anything else.
    """
    if nested == "all":
        factors = dict.fromkeys(range(1, ipc + 1), 1.0)
    elif nested == "some":
        round_ones = (step * 10**power for power in range(len(str(ipc))) for step in (1, 2, 5))
        factors = dict.fromkeys([*(count for count in round_ones if count < ipc), ipc], 1.0)
    else:
        factors = _named(nested, ipc)
    total = sum(count * factor for count, factor in factors.items())
    return {count: count * factor / total for count, factor in factors.items()}


def _named(nested: str, ipc: int) -> dict[int, float]:
    """The factors of the counts that the text names, and of ``ipc``, ascending."""
    found = [_PREFIX.fullmatch(text.strip()) for text in nested.split(",")]
    factors = {int(each[1]): float(each[2] or 1) for each in found if each is not None}
    if len(factors) < len(found) or not all(1 <= count <= ipc for count in factors) or not all(factors.values()):
        raise ConfigError(
            f"nested must be counts from 1 to ipc ({ipc}) joined by commas, each once, with a weight above 0 after a "
            f"colon if it is not 1 (1:3,{ipc}), or 'some' or 'all', not {nested!r}"
        )
    return dict(sorted({ipc: 1.0, **factors}.items()))

"""Names of classes: their order, which determines the class ids, and names that look alike."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from atom_plugin.errors import SourceError

_logger = logging.getLogger("atom_plugin")

CLASS_ORDERS = ("name", "natural")


def in_class_order(names: Iterable[str], order: str | None) -> list[str]:
    """``names`` by code point ("name", as in torchvision's ImageFolder), or with numbers by value ("natural").

    None is "name", with a warning if the two orders differ, because class ids of other files may use the other one.
    """
    by_name = sorted(names)
    by_number = sorted(by_name, key=_natural_key)
    if order is None and by_name != by_number:
        _logger.warning(
            "classes are numbered in the order of their names: %s; with --class-order natural: %s",
            *(some_names(by_name, quoted=False), some_names(by_number, quoted=False)),
        )
    return by_number if order == "natural" else by_name


def composed(name: str) -> str:
    """``name`` in Unicode's composed form (NFC): macOS spells file names decomposed, most other systems composed."""
    return unicodedata.normalize("NFC", name)


def look_alikes(names: Iterable[str]) -> list[list[str]]:
    """Groups of ``names`` that differ only in letter case or in how their characters are composed."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[composed(composed(name).casefold())].append(name)
    return [group for group in groups.values() if len(group) > 1]


def some_names(names: Sequence[str], *, quoted: bool = True) -> str:
    """The first five of ``names``, and how many more there are."""
    shown = ", ".join(repr(name) if quoted else name for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def spelt(names: Iterable[str]) -> str:
    """``names`` with every non-ASCII character written as its code, to tell apart names that look alike."""
    return " and ".join(ascii(name) for name in names)


def human_names(root: Path, classes: Sequence[str]) -> tuple[str, ...]:
    """The first word that ``words.txt`` has for each class, followed by the class if two share the word."""
    if not (root / "words.txt").is_file():
        return tuple(classes)
    wanted = set(classes)
    words = {}
    for line in lines_of(root / "words.txt"):
        wnid, _, text = line.partition("\t")
        if wnid in wanted and text.strip():
            words[wnid] = text.split(",")[0].strip()
    names = [words.get(name, name) for name in classes]
    uses = Counter(names)
    return tuple(name if uses[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(names, classes, strict=True))


def lines_of(path: Path) -> list[str]:
    """The non-empty lines of a text. Raises SourceError."""
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"cannot read {path} ({error}); expected tab-separated UTF-8 text") from error


def _natural_key(name: str) -> tuple[list[str | int], str]:
    # Text and numbers in turn, beginning with text: items at one place are of one type, and can be compared.
    parts = re.split(r"(\d+)", name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name

"""What the README and the tutorials show, and how it ends soon: their console and Python blocks, with options added."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from atom_plugin.cli.main import main

# What a command takes here to end soon; the last of an option given twice counts.
TINY = {
    "distill": "--iterations 2 --width 8 --real-batch 2 --quiet",
    "select": "--quiet",
    "pool make": "--networks 1 --epochs 1 --width 8 --quiet",
    "consume evaluate": "--epochs 1 --repeats 1 --quiet",
    "consume train": "--epochs 1 --quiet",
    "consume predict": "--quiet",
    "consume search": "--epochs 1 --pick width=32,depth=1 --sample 2 --reference full:1 --quiet",
    "consume audit": "--epochs 1 --networks 2 --quiet",
    "consume replay": "--finetune-steps 1 --iterations 1 --epochs 1 --orders 1 --steps 2 --width 8 --real-batch 2 --quiet",
    "report": "--quiet",
}
_LISTS = ("--list-matchers", "--list-recipes")


def blocks(text: str) -> list[tuple[str, str]]:
    """The console and Python blocks of a Markdown page, in order: the language, and what stands in it."""
    return re.findall(r"^```(console|python)\n(.*?)^```$", text, re.M | re.S)


def commands(text: str) -> list[list[str]]:
    """The words behind `atom-cli` of the commands in a page's console blocks, in order.

    But for the import of a result that others made of a set to be downloaded.
    """
    console = [block.replace("\\\n", " ") for language, block in blocks(text) if language == "console"]
    lines = [line for block in console for line in block.splitlines()]
    found = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    return [words[1:] for words in found if words[0] == "atom-cli" and words[1:3] != ["store", "import"]]


def run_shown(words: list[str], more: Mapping[str, str] | None = None) -> int:
    """The exit code of the command, run with what it takes to end soon, and what ``more`` adds by its name."""
    verb = " ".join(words[:2] if words[0] in ("store", "consume", "pool") else words[:1])
    added = "" if set(words) & set(_LISTS) else f"{TINY.get(verb, '')} {(more or {}).get(verb, '')}"
    return main([*words, *added.split()])

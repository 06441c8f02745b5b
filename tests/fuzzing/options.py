"""Options that nobody should give, on the command line and in files, from the definitions of every command."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import click
from fuzzing.files import AUDIT, ONCE, PRECISION, REPLAY, RUN, SEARCH, TRAIN, Case
from fuzzing.values import TEXTS

from atom_plugin.cli.main import COMMANDS, LazyGroup, atom_cli

# What is left to do the work in a second; more than a few of these are no fault, and take as long as they say.
_WORK = {
    "iterations",
    "epochs",
    "repeats",
    "orders",
    "networks",
    "full_epochs",
    "full_repeats",
    "forgetting_epochs",
    "network_epochs",
    "real_batch",
}
_LEFT_OUT = {"help", "help_all", "debug", "version", "download", "dataset", "device", "list_models", "full"}
_LARGE = ["2", "3", "7", "65536", "2147483647", "99999999999"]
_KEYS = [
    "p_s",
    "balance",
    "zca",
    "factor",
    "experiment",
    "iteration",
    "soft_labels",
    "label_kind",
    "lr",
    "pixels",
    "images",
    "mean",
    "std",
    "method",
    "ipc",
    "x",
]


def commands(
    group: click.Group = atom_cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that does something, by its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        elif command is not None:
            yield (*path, name), command


def base_of(path: tuple[str, ...], base: Path) -> Case:
    """A sound command, small enough to be run whole."""
    held = str(base / "set.h5")
    sound = {
        ("distill",): [*RUN, "-o", "out.h5"],
        ("select",): ["select", "--ipc", "1", "--quiet", "-o", "out.h5", *PRECISION],
        ("store", "info"): ["store", "info", held],
        ("store", "verify"): ["store", "verify", held],
        ("store", "show"): ["store", "show", held, "-o", "out.png", *PRECISION],
        ("store", "export"): ["store", "export", held, "--format", "npz", "-o", "out"],
        ("store", "import"): ["store", "import", str(base / "theirs-npz"), "--format", "npz", "-o", "out.h5"],
        ("store", "merge"): ["store", "merge", held, held, "-o", "out.h5"],
        ("store", "subset"): ["store", "subset", held, "--classes", "0", "-o", "out.h5"],
        ("consume", "evaluate"): ["consume", "evaluate", held, *ONCE],
        ("consume", "train"): ["consume", "train", held, *TRAIN, "-o", "out"],
        ("consume", "predict"): ["consume", "predict", str(base / "net.safetensors"), str(base / "theirs-folder")],
        ("consume", "score"): ["consume", "score", held, *ONCE, "--full-accuracy", "0.9"],
        ("consume", "search"): ["consume", "search", held, "--space", str(base / "space.toml"), *SEARCH],
        ("consume", "audit"): ["consume", "audit", held, *AUDIT],
        ("report",): ["report", held, "-o", "out.html", *PRECISION],
        ("pool", "make"): [
            "pool",
            "make",
            "--networks",
            "1",
            "--epochs",
            "1",
            "--width",
            "4",
            "--quiet",
            "-o",
            "out",
            *PRECISION,
        ],
        ("consume", "replay"): [*REPLAY, "--policy", "random", "-o", "out"],
    }
    return list(sound[path])


def option_case(base: Path, chance: random.Random) -> Case:
    """A sound command with one to three options that are not."""
    path, command = chance.choice(list(commands()))
    arguments = base_of(path, base)
    given = [option for option in command.params if isinstance(option, click.Option) and option.name not in _LEFT_OUT]
    if not given:
        arguments.append(chance.choice(TEXTS))
    table = []
    for option in chance.choices(given, k=chance.choice((1, 1, 2, 3))) if given else []:
        words = _spelt(option, path, chance)
        if words[0].startswith("--") and len(words) > 1 and chance.random() < 0.2:
            table.append(f"{words[0].removeprefix('--')} = {json.dumps(words[1])}\n")
        else:
            arguments += words
    if table:
        Path("mine.toml").write_text("".join(table), errors="replace")
        arguments += ["--config", "mine.toml"]
    return [word for word in arguments if "\0" not in word]


def _spelt(option: click.Option, path: tuple[str, ...], chance: random.Random) -> list[str]:
    name = chance.choice([*option.opts, *option.secondary_opts, *getattr(option, "old", ())])
    if option.is_flag:
        return [name]
    # Else a network is trained on all real images first, for as long as that takes.
    untrained = ["--network-state", "random"] if option.name == "embedding" else []
    return [name, _value(option, path, chance), *untrained]


def _value(option: click.Option, path: tuple[str, ...], chance: random.Random) -> str:
    if isinstance(option.type, click.Choice) and chance.random() < 0.4:
        return chance.choice([str(item) for item in option.type.choices if str(item) not in ("auto", "forgetting")])
    if option.metavar == "KEY=VALUE" and chance.random() < 0.8:
        return f"{chance.choice(_KEYS)}={chance.choice(TEXTS)}"
    if isinstance(option.type, click.Path) and chance.random() < 0.5:
        return chance.choice(
            [".", "/", "nowhere/x.h5", "x" * 300, "out.h5", "a/b/c", "/dev/null", "/proc/self/mem", "/etc/passwd"]
        )
    if option.name == "format_":
        return chance.choice(
            ["npz", "pt", "mtt", "datm", "idc", "dc-bench", "dd-ranking", "folder", "huggingface", "arrays", *TEXTS[:3]]
        )
    if option.name not in _WORK and chance.random() < 0.3:
        return chance.choice(_LARGE)
    return chance.choice(TEXTS)


assert isinstance(atom_cli, LazyGroup) and COMMANDS

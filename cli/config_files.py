"""Options in files: ``--config`` reads them from TOML or from a set, ``--print-config`` writes them."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from atom_plugin.errors import ConfigError, shown, unknown
from atom_plugin.runtime.text import flaw
from atom_plugin.runtime.toml import read_toml

_FILE = f"{__name__}.file"
_IN_PLACE_OF = {"seed": "seeds", "zca": "zca_eps", "classes": "class_ids"}
_IN_PLACE_OF |= {other: name for name, other in _IN_PLACE_OF.items()}
"""Pairs of parameters that exclude each other: on the command line one replaces the other's value from the file."""


def named(ctx: click.Context) -> str:
    """The file from which the values in the context's ``default_map`` come."""
    return str(ctx.meta[_FILE])


def read(ctx: click.Context, name: str, *, given: Collection[str]) -> dict[str, Any]:
    """The options in a file for the context's command, by parameter, as words of a command line.

    Parameters ``given`` on the command line have priority. Raises UsageError, with the file's name, for an option that the
    command does not have and for a value that the option does not accept.
    """
    path = ctx.meta[_FILE] = Path(os.path.expanduser(name))  # noqa: PTH111 (Path's raises for an unknown user)
    known = _options(ctx.command)
    try:
        table = _made_with(path, ctx.command, known) if _is_set(path) else _of_command(read_toml(path), ctx)
    except ConfigError as error:
        raise click.UsageError(str(error), ctx) from error
    values: dict[str, Any] = {}
    for key, value in table.items():
        option = known.get(key)
        if option is None:
            raise click.UsageError(f"{path}: {_unknown(ctx, key, value, known)}", ctx)
        if option.name in values:
            raise click.UsageError(f"{path}: {key} is given twice, under two names; leave one out", ctx)
        if _says_nothing(option, value):
            continue
        words = values[str(option.name)] = _words(option, value)
        try:
            option.process_value(ctx, words)
        except click.UsageError as error:
            raise click.UsageError(f"{path}: {error.format_message()}", ctx) from error
    given = {word.partition(" ")[0] for word in given}  # of a former name, "x by an old name"
    return {name: value for name, value in values.items() if _IN_PLACE_OF.get(name) not in given}


def text(ctx: click.Context, words: Mapping[str, Any], settled: Mapping[str, Any], idle: Collection[str]) -> str:
    """The options of the context's command as a TOML table, without the ``idle`` ones.

    ``words`` are the words of the command line and of a file, by parameter; ``settled`` are the values for parameters without
    words. Raises UsageError for a word that TOML cannot represent.
    """
    lines = [f"[{'.'.join(ctx.command_path.split()[1:])}]"]
    for label, option in _labelled(ctx.command):
        name = str(option.name)
        value = ctx.params.get(name)
        if value in (None, ()) or isinstance(value, dict):
            value = None if _IN_PLACE_OF.get(name) in words else settled.get(name, value)
        elif not isinstance(value, int | float):
            value = words.get(name, option.get_default(ctx))
        if value is not None and name not in idle and not _says_nothing(option, value):
            value = value if isinstance(value, int | float) else _words(option, value)
            lines.append(f"{label} = {_toml(value, ctx)}")
    return "\n".join(lines)


def option_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """A set's stored ``config``, by the parameters of the corresponding options."""
    values = {**config["network"], **config, "matcher_option": config.get("matcher_options")}
    if values["pooling"] == "none":
        del values["pool_size"]
    if values["zca_eps"] is None:
        values["zca"] = False
    return {name: value for name, value in values.items() if value not in (None, [], ())}


def _made_with(path: Path, command: click.Command, known: Mapping[str, click.Option]) -> dict[str, Any]:
    """The options that made the set at ``path``, by the names of ``command``'s options. Raises ConfigError if another command
    made it.
    """
    from atom_plugin import store
    from atom_plugin.distillation.config import DistillConfig
    from atom_plugin.distillation.select_config import SelectConfig
    from atom_plugin.distillation.set_config import METHODS
    from atom_plugin.errors import StoreError

    try:
        made = store.read(path).provenance
    except StoreError as error:
        raise ConfigError(str(error)) from error
    maker = "select" if made.method in METHODS else "distill"
    if not made.config or "merged" in made.config or command.name != maker:
        by = f"by `{maker}`" if "ipc" in made.config else "in another way"
        raise ConfigError(f"{path}: was made {by}, and has no options of `{command.name}`; give a TOML file")
    try:
        config = (SelectConfig if maker == "select" else DistillConfig).from_json(made.config).to_json()
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    source = {"split_seed" if name == "seed" else name: value for name, value in made.source.get("options", {}).items()}
    values = {**option_values(config), **source, "dataset": made.source.get("name")}
    names = {str(option.name): label for label, option in known.items()}
    return {names[name]: value for name, value in values.items() if name in names}


def _is_set(path: Path) -> bool:
    import h5py

    return path.suffix != ".toml" and path.is_file() and bool(h5py.is_hdf5(path))


def _of_command(table: dict[str, Any], ctx: click.Context) -> dict[str, Any]:
    """The keys for the context's command: keys before all tables, keys of its group's table, and keys of its own table."""
    values: dict[str, Any] = {}
    for name, commands in _groups(ctx):
        tables = {key for key, value in table.items() if key in commands and isinstance(value, dict)}
        values |= {key: value for key, value in table.items() if key not in tables}
        table = table[name] if name in tables else {}
    return values | table


def _groups(ctx: click.Context) -> list[tuple[str, list[str]]]:
    """The path from the program to the context's command: the name of each step, and the alternatives to it."""
    if ctx.parent is None:
        return []
    assert isinstance(ctx.parent.command, click.Group)
    return [*_groups(ctx.parent), (str(ctx.info_name), ctx.parent.command.list_commands(ctx.parent))]


def _unknown(ctx: click.Context, key: str, value: Any, known: Collection[str]) -> str:
    """The message for a key of a file that is neither an option of the command nor a command's table."""
    tables = [name for _, commands in _groups(ctx) for name in commands] if isinstance(value, dict) else []
    kind = "table or option" if tables else "option"
    return unknown(kind, key, [*tables, *known], see=f"{ctx.command_path} --help-all lists the options")


def _options(command: click.Command) -> dict[str, click.Option]:
    """The command's options by their long names without dashes, including old names."""
    return {
        name.removeprefix("--"): option
        for _, option in _labelled(command)
        for name in (*option.opts, *getattr(option, "old", ()))
        if name.startswith("--")
    }


def _labelled(command: click.Command) -> Iterator[tuple[str, click.Option]]:
    """The options that a file may contain, each by its longest name without dashes."""
    for option in command.params:
        if isinstance(option, click.Option) and option.expose_value:
            yield max(option.opts, key=len).lstrip("-"), option


def _says_nothing(option: click.Option, value: Any) -> bool:
    """Whether ``value`` means that the option is left out: a flag that is off, or an empty list."""
    return (value is False and not option.secondary_opts) or (option.multiple and value in ((), [], {}))


def _words(option: click.Option, value: Any) -> Any:
    """``value`` as words of a command line: a list as words or joined by commas, a table as KEY=VALUE words."""
    if isinstance(value, bool) and option.is_flag:
        return value
    if isinstance(value, Mapping):
        value = [f"{key}={json.dumps(item, default=str)}" for key, item in value.items()]
    words = [_word(item) for item in (value if isinstance(value, list | tuple) else [value])]
    return words if option.multiple else ",".join(words)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _toml(value: Any, ctx: click.Context) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_toml(item, ctx) for item in value)}]"
    literal = json.dumps(value, ensure_ascii=False)
    if why := flaw(literal):
        raise click.UsageError(f"--print-config: TOML cannot represent {shown(value)}: {why}; rename it", ctx)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08X}" for char in literal)

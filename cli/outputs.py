"""What a command writes: checked together and taken before the work, so that no file is lost to it, and no work to a file."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from atom_plugin.errors import ConfigError, StoreError
from atom_plugin.runtime import distributed
from atom_plugin.runtime.files import reason, refuse_existing
from atom_plugin.runtime.locks import locked, remove_stale_locks
from atom_plugin.runtime.picture_files import is_picture, picture_format

if TYPE_CHECKING:
    from atom_plugin.store.synthetic_set import SyntheticSet


@dataclass(frozen=True, kw_only=True)
class Output:
    """A file that a command writes, and the ``option`` that names it, or the word for it.

    ``replace``: one that exists may be replaced. ``ours`` recognises a file of this kind and of this package; it is given
    where the command makes up the name, and a file that it does not know is kept, whatever ``replace`` says. ``kept`` says
    what to do about one that may not be replaced. ``shared``: the command adds to it, as other processes may at the same
    time. ``picture``: its ending says what is drawn.
    """

    path: Path
    option: str
    replace: bool = False
    ours: Callable[[Path], bool] | None = None
    kept: str = "already exists and is kept; choose another name, or allow replacing it with --force"
    shared: bool = False
    picture: bool = False


def table_outputs(csv_file: Path | None, chart: Path | None, results: Path | None, *, force: bool) -> list[Output]:
    """Those of ``--csv``, ``--chart`` and ``--results`` that were given, the latter shared with other processes."""
    named = [("--csv", csv_file), ("--chart", chart)]
    outputs = [
        Output(path=path, option=name, replace=force, picture=name == "--chart")
        for name, path in named
        if path is not None
    ]
    if results is not None:
        outputs.append(Output(path=results, option="--results", shared=True))
    return outputs


def claim(outputs: Sequence[Output], *, inputs: Iterable[Path | None] = (), lock: bool = True) -> None:
    """Take the names of ``outputs`` until the command ends; call it before any work.

    Raises ConfigError where two outputs are one file (by path, link or case), or where one is among the ``inputs``, files or
    folders, or where a picture has an ending that none is drawn for; StoreError where another process writes one, where one
    exists and must not be replaced, or cannot be written. ``lock`` False leaves other processes out of it, where the last move
    of the writing itself decides.
    """
    for one, other in itertools.combinations(outputs, 2):
        if _same(one.path, other.path):
            raise ConfigError(
                f"{one.option} {one.path} and {other.option} {other.path} are one file; give each a name of its own"
            )
    for output, read in itertools.product(outputs, [path for path in inputs if path is not None]):
        _refuse_input(output, read)
    for output in outputs:
        if output.picture:
            picture_format(output.path)
    if lock and distributed.launched_first():  # those that torchrun starts are one run
        context = click.get_current_context()
        for folder in {output.path.parent for output in outputs}:
            remove_stale_locks(folder)
        for output in outputs:
            if not output.shared:
                context.with_resource(locked(output.path, _command(context)))
    for output in outputs:
        _refuse_output(output)


def write_set(synthetic_set: SyntheticSet, path: Path, *, force: bool, keep_paths: bool) -> None:
    """Write the result of long work; where that fails, keep it under another name, and say so in the StoreError."""
    from atom_plugin import store

    try:
        store.write(synthetic_set, path, force=force, keep_paths=keep_paths)
    except StoreError as error:
        kept = _kept_elsewhere(synthetic_set, path, keep_paths)
        if kept is None:
            raise
        where = f"{error}; the finished set is kept in {kept}"
        if kept.parent == path.parent:
            raise StoreError(where) from error
        raise StoreError(f"{where}: free some space, then run  mv -n {quoted(kept)} {quoted(path)}") from error


def default_name(*parts: str, seed: int, suffix: str = "") -> Path:
    """The name of an output that the user gave none: its ``parts``, and a seed that is not 0, joined by hyphens."""
    return Path("-".join([*parts, *([f"seed{seed}"] if seed else [])]) + suffix)


def quoted(path: Path | str) -> str:
    """``path`` as a shell takes it: for commands that a message suggests."""
    return shlex.quote(str(path))


def _same(one: Path, other: Path) -> bool:
    """Whether both are one file, or would be on a file system that ignores case."""
    if os.path.realpath(one).casefold() == os.path.realpath(other).casefold():
        return True
    try:
        return one.samefile(other)
    except OSError:
        return False


def _refuse_input(output: Output, read: Path) -> None:
    path = output.path
    if _same(path, read):
        raise ConfigError(
            f"{path}: {output.option} is the name of {read}, which the command reads; choose another name"
        )
    if output.replace and Path(os.path.realpath(path)) in Path(os.path.realpath(read)).parents:
        raise ConfigError(
            f"{path}: {output.option} holds {read}, which the command reads, and would be replaced; choose another name"
        )
    inside = Path(os.path.realpath(read)) in Path(os.path.realpath(path)).parents
    if inside and not output.shared and os.path.lexists(path) and not _of_this_package(output):
        raise ConfigError(
            f"{path}: {output.option} is a file in {read}, which the command reads, and none that this package wrote; choose "
            "another name"
        )


def _refuse_output(output: Output) -> None:
    path = output.path
    try:
        present = path.lstat() is not None
    except FileNotFoundError:
        present = False
    except OSError as error:  # a name that is too long, say
        raise StoreError(f"{path}: cannot be written: {reason(error, path)}") from error
    if output.shared:
        return
    if not path.parent.is_dir():
        raise StoreError(f"{path}: cannot be written: {reason(FileNotFoundError(), path)}")
    if present and output.ours is not None and not path.is_dir() and not output.ours(path):
        raise StoreError(
            f"{path}: exists, is not {output.option} of an earlier run, and is kept; move it elsewhere, or choose another name "
            "with -o"
        )
    if present and not output.replace and not path.is_dir():
        raise StoreError(f"{path}: {output.kept}")
    refuse_existing(path, force=output.replace)


def _of_this_package(output: Output) -> bool:
    from atom_plugin.store import read_header

    if output.ours is not None or is_picture(output.path):
        return True
    try:
        read_header(output.path)
    except StoreError:
        return False
    return True


def _command(context: click.Context) -> str:
    from atom_plugin.cli.main import Session

    session = context.find_object(Session)
    return shlex.join(["atom-cli", *session.args]) if session is not None else context.command_path


def _kept_elsewhere(synthetic_set: SyntheticSet, path: Path, keep_paths: bool) -> Path | None:
    """Where the set could be written after all: beside ``path``, else in a new folder among temporary files, else at home."""
    from atom_plugin import store

    numbered = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))
    beside = next(place for place in numbered if not os.path.lexists(place))
    with contextlib.suppress(StoreError):
        store.write(synthetic_set, beside, keep_paths=keep_paths)
        return beside
    for root in (None, "~"):
        with contextlib.suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix="atom-plugin-", dir=root and os.path.expanduser(root)))  # noqa: PTH111 (as in options)
            with contextlib.suppress(StoreError):
                store.write(synthetic_set, folder / path.name, keep_paths=keep_paths)
                return folder / path.name
            folder.rmdir()
    return None

"""Output files of a command: checked and reserved together before the work starts."""

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
from atom_plugin.runtime.endings import refuse_other_ending
from atom_plugin.runtime.files import reason, refuse_existing
from atom_plugin.runtime.locks import locked, remove_stale_locks
from atom_plugin.runtime.picture_files import is_picture, picture_format

if TYPE_CHECKING:
    from atom_plugin.store.synthetic_set import SyntheticSet


@dataclass(frozen=True, kw_only=True)
class Output:
    """A file that a command writes, and the ``option`` that names it.

    ``replace``: an existing file may be replaced. ``ours`` tells whether a file is of this kind and written by this package; it
    is set if the command chose the name itself, and other files are then kept in any case. ``kept`` is the advice if a file may
    not be replaced. ``shared``: the command appends to the file, and other processes may too. ``picture``: the file ending
    determines the picture format. ``kind``: what the file holds, of :data:`~atom_plugin.runtime.endings.ENDINGS`; a name with
    the ending of another kind is refused.
    """

    path: Path
    option: str
    replace: bool = False
    ours: Callable[[Path], bool] | None = None
    kept: str = "already exists and is kept; choose another name, or allow replacing it with --force"
    shared: bool = False
    picture: bool = False
    kind: str = ""


def table_outputs(csv_file: Path | None, chart: Path | None, results: Path | None, *, force: bool) -> list[Output]:
    """The outputs of ``--csv``, ``--chart`` and ``--results`` that were given; ``--results`` is shared with other processes."""
    named = [("--csv", csv_file), ("--chart", chart)]
    outputs = [
        Output(path=path, option=name, replace=force, picture=name == "--chart", kind="CSV" if name == "--csv" else "")
        for name, path in named
        if path is not None
    ]
    if results is not None:
        outputs.append(Output(path=results, option="--results", shared=True, kind="JSON lines"))
    return outputs


def claim(outputs: Sequence[Output], *, inputs: Iterable[Path | None] = (), lock: bool = True) -> None:
    """Reserve the names of ``outputs`` until the command ends; call it before any work.

    Raises ConfigError if two outputs are the same file (by path, link or case), if an output is among the ``inputs`` (files or
    folders), or if a name has the ending of another kind of file. Raises StoreError if another process writes an output, or if
    an output exists and must not be replaced, or cannot be written. With ``lock`` False other processes are not excluded; the
    last rename of the write decides.
    """
    for one, other in itertools.combinations(outputs, 2):
        if _same(one.path, other.path):
            raise ConfigError(
                f"{one.option} {one.path} and {other.option} {other.path} are the same file; give different names"
            )
    for output, read in itertools.product(outputs, [path for path in inputs if path is not None]):
        _refuse_input(output, read)
    for output in outputs:
        if output.picture:
            picture_format(output.path)
        if output.kind:
            refuse_other_ending(output.path, output.kind, option=output.option)
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
    """Write the result of long work; if that fails, keep it under another name, which the StoreError names."""
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
    """The default name of an output: its ``parts``, and a seed that is not 0, joined by hyphens."""
    return Path("-".join([*parts, *([f"seed{seed}"] if seed else [])]) + suffix)


def quoted(path: Path | str) -> str:
    """``path`` quoted for a shell, for commands in messages."""
    return shlex.quote(str(path))


def _same(one: Path, other: Path) -> bool:
    """Whether both are the same file, or would be on a file system that ignores case."""
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
            f"{path}: {output.option} contains {read}, which the command reads, and would be replaced; choose "
            "another name"
        )
    inside = Path(os.path.realpath(read)) in Path(os.path.realpath(path)).parents
    if inside and not output.shared and os.path.lexists(path) and not _of_this_package(output):
        raise ConfigError(
            f"{path}: {output.option} is a file in {read}, which the command reads, and was not written by this "
            "package; choose another name"
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
            f"{path}: exists, is not {output.option} of an earlier run, and is kept; move it, or choose another name "
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
    """Other places for the set: next to ``path``, in a new temporary folder, in the home folder."""
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

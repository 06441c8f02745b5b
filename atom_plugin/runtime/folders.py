"""Write folders completely or not at all; replace only folders that an earlier write made and nobody changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from atom_plugin.errors import StoreError
from atom_plugin.runtime import bounded_json, renames
from atom_plugin.runtime.files import reason, temporary_beside

INDEX = ".atom-export.json"
"""A folder's list of the files that were written into it, with their sha256."""
_FORMAT, _VERSION = "atom-plugin/folder", 1
_NAMED = 3  # of what is foreign, in a message


def write_folder(path: Path, fill: Callable[[Path], object], *, force: bool) -> None:
    """Make the folder ``path`` with the files that ``fill`` writes, in one move, with an :data:`INDEX` of its files.

    ``force`` replaces an empty folder, or one that this function made and in which nothing was added or changed since; the old
    one stays complete until the new one has its name. Raises StoreError.
    """
    recover(path, foreign_files)
    refuse_folder(path, force=force)
    temporary = temporary_beside(path)
    try:
        temporary.mkdir()
        fill(temporary)
        _write_index(temporary)
        place_folder(temporary, path, replace=force, foreign=foreign_files)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {reason(error, path)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_folder(path: Path, *, force: bool) -> None:
    """Raise StoreError if ``path`` exists and :func:`write_folder` must not replace it, naming the foreign files in it."""
    if not os.path.lexists(path):
        return
    if not force:
        raise StoreError(f"{path}: already exists and is kept; choose another name, or allow replacing it with --force")
    if path.is_symlink() or not path.is_dir():
        raise StoreError(f"{path}: is not a folder that an export wrote and is not replaced; choose another name")
    _refuse_foreign(path, foreign_files(path))


def place_folder(new: Path, path: Path, *, replace: bool, foreign: Callable[[Path], Sequence[str]]) -> None:
    """Give the folder ``new`` the name ``path`` in one move; with ``replace`` the old folder of that name is then deleted.

    If files appeared in the old folder meanwhile (``foreign`` returns their names), the old folder is put back. Raises
    StoreError if the name is taken, OSError if the move fails.
    """
    if not (replace and path.is_dir()):
        try:
            renames.rename_new(new, path)
        except FileExistsError:
            raise StoreError(
                f"{path}: was made by another process meanwhile and is kept; choose another name"
            ) from None
        return
    os.utime(path)  # so that nobody takes it for abandoned while it has the temporary name
    old = _exchanged(new, path)
    names = foreign(old)
    if names:
        shutil.rmtree(_exchanged(old, path), ignore_errors=True)
        _refuse_foreign(path, names)
    _discard(old)


def recover(path: Path, foreign: Callable[[Path], Sequence[str]]) -> None:
    """Finish an interrupted replacement: restore the old folder, or delete it if the new one has the name."""
    aside = _aside(path)
    if not aside.is_dir():
        return
    if not os.path.lexists(path):
        renames.rename_new(aside, path)
    else:
        _refuse_foreign(aside, foreign(aside))
        _discard(aside)


def foreign_files(folder: Path) -> list[str]:
    """The names in ``folder`` that :func:`write_folder` did not write, or that were changed since."""
    try:
        index = bounded_json.parse((folder / INDEX).read_bytes())
        written = dict(index["files"]) if index["format"] == _FORMAT else {}
    except (OSError, ValueError, TypeError, KeyError):
        written = {}
    known = {INDEX} if written else set()
    folders = {parent.as_posix() for name in written for parent in Path(name).parents}
    foreign = []
    for item in sorted(folder.rglob("*")):
        name = item.relative_to(folder).as_posix()
        if item.is_dir() and not item.is_symlink():
            ours = name in folders
        else:
            ours = name in known or (name in written and not item.is_symlink() and written[name] == _sha256(item))
        if not ours:
            foreign.append(name)
    return foreign


def _refuse_foreign(path: Path, names: Sequence[str]) -> None:
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        raise StoreError(
            f"{path}: contains {', '.join(names[:_NAMED])}{more}, which was not written by an export or was changed "
            "since, and is not replaced; move it elsewhere, or choose another name"
        )


def _exchanged(new: Path, path: Path) -> Path:
    """Exchange the names of ``new`` and the folder ``path``; returns the new name of the old folder."""
    if renames.exchange(new, path):
        return new
    aside = _aside(path) if new != _aside(path) else temporary_beside(path)
    path.rename(aside)
    new.rename(path)
    return aside


def _discard(folder: Path) -> None:
    """Delete a folder under a temporary name, so that a kill leaves no incomplete folder under the real name."""
    going = temporary_beside(folder)
    os.utime(folder)
    folder.rename(going)
    shutil.rmtree(going, ignore_errors=True)


def _aside(path: Path) -> Path:
    """The place of the old folder while the new one takes its name: a short name that the next write of ``path`` finds."""
    return path.parent / f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}.old"


def _write_index(folder: Path) -> None:
    files = {item.relative_to(folder).as_posix(): _sha256(item) for item in sorted(folder.rglob("*")) if item.is_file()}
    index = {"format": _FORMAT, "format_version": _VERSION, "files": files}
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        digest = hashlib.sha256()
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

"""Find the image files below a folder: which files count, which links are followed, and how many files are left out."""

from __future__ import annotations

import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from atom_plugin.datasets.pixels import suffixes
from atom_plugin.errors import SourceError

_logger = logging.getLogger("atom_plugin")
_Identity = tuple[int, int]

# What systems put beside images by themselves.
_LEFTOVERS = frozenset({"thumbs.db", "desktop.ini"})
# Endings that nobody takes for images: told, but not as a warning.
_SIDE_FILES = frozenset({".txt", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".md", ".html", ".xmp", ".npy"})


class ImageFile(NamedTuple):
    """A file below the root: ``path`` relative to it with forward slashes, size in bytes, mtime in ns."""

    path: str
    size: int
    mtime_ns: int


class Walk:
    """Looks into ``root``, by name and ``stat`` alone; ``left_out`` counts the files that are not images, by ending.

    Links are followed if they lead to something within ``root``, and with ``follow_links`` everywhere. Hidden files and folders
    are skipped. Every method raises SourceError for folders that cannot be read.
    """

    def __init__(self, root: Path, *, follow_links: bool = False) -> None:
        self.root = root
        self.left_out: Counter[str] = Counter()
        self._real = str(root.resolve())
        self._follow_links = follow_links

    def folders(self, relative: str = "") -> list[str]:
        """The names of the folders in ``root/relative``, including links to folders, sorted."""
        folder = self.root / relative
        try:
            with os.scandir(folder) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir() and not _passed_over(entry.name))
        except OSError as error:
            raise SourceError(f"cannot look into {folder} ({error.strerror})") from error

    def images(self, relative: str) -> Iterator[ImageFile]:
        """The image files below ``root/relative``, at any depth. Raises SourceError for a link that is not followed."""
        parts = relative.split("/")
        above = ["/".join(parts[:depth]) for depth in range(len(parts))]
        for folder in [*above[1:], relative]:
            if (self.root / folder).is_symlink():
                self._check_link(self.root / folder)
        link = next(
            (self.root / folder for folder in [relative, *above[:0:-1]] if (self.root / folder).is_symlink()), None
        )
        return self._images(relative, link, frozenset(_identity((self.root / folder).stat()) for folder in above))

    def say_left_out(self) -> None:
        """Log one line on the files in :attr:`left_out`: a warning, unless all of them are text files."""
        if self.left_out:
            counts = ", ".join(f"{count} {ending}" for ending, count in self.left_out.most_common())
            level = logging.INFO if set(self.left_out) <= _SIDE_FILES else logging.WARNING
            _logger.log(
                level,
                "%s: skipped files that are not images, by ending: %s (known endings: %s)",
                *(self.root, counts, " ".join(suffixes())),
            )

    def _images(self, relative: str, link: Path | None, ancestors: frozenset[_Identity]) -> Iterator[ImageFile]:
        """As :meth:`images`; ``link`` is the last link on the path so far, ``ancestors`` are all folders on it."""
        folder = self.root / relative
        try:
            here = _identity(folder.stat())
            if here in ancestors:
                loop, target = self._link(link or folder)
                raise SourceError(f"{loop} is a link to {target}, which contains it; remove the link only")
            with os.scandir(folder) as entries:
                for entry in entries:
                    if _passed_over(entry.name):
                        continue
                    path = f"{relative}/{entry.name}"
                    is_image = entry.name.lower().endswith(suffixes())
                    if entry.is_symlink() and (is_image or entry.is_dir()):
                        self._check_link(folder / entry.name)
                    if entry.is_dir():
                        below = folder / entry.name if entry.is_symlink() else link
                        yield from self._images(path, below, ancestors | {here})
                    elif not is_image:
                        self._leave_out(entry.name)
                    else:
                        file = entry.stat()
                        if stat.S_ISREG(file.st_mode):  # opening a pipe would wait for ever
                            yield ImageFile(path, file.st_size, file.st_mtime_ns)
        except OSError as error:
            raise SourceError(f"cannot look into {folder} ({error.strerror}: {error.filename})") from error

    def _leave_out(self, name: str) -> None:
        if name.lower() not in _LEFTOVERS:
            self.left_out[Path(name).suffix.lower() or "without an ending"] += 1

    def _check_link(self, path: Path) -> None:
        link, target = self._link(path)
        if not self._follow_links and os.path.commonpath([self._real, target]) != self._real:
            raise SourceError(
                f"{link} is a link out of {self.root}, to {target}; remove the link, or pass --follow-links "
                "(follow_links=) if the images behind it are meant"
            )

    def _link(self, path: Path) -> tuple[str, str]:
        """The real place of the link ``path`` itself, and the target it leads to."""
        return str(path.parent.resolve() / path.name), str(path.resolve())


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino


def _passed_over(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"  # what zip files made on a Mac leave behind

"""Write packed files image by image in bounded memory; continue after a kill; give the final name only to complete files."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np

from atom_plugin.datasets.common import content_digest
from atom_plugin.datasets.packed import Contents, create, mapped_splits, read_header
from atom_plugin.datasets.pixels import Pixels
from atom_plugin.errors import SourceError
from atom_plugin.runtime.files import reason, temporary_beside

# How many bytes may be written between two marks of progress: what a kill costs at most.
_MARKED = 2**28
_NARROWED = 4096  # images at a time
_ELSEWHERE = " (--cache-dir, cache_dir=)"


class Packer:
    """Writes a packed file at ``path``, an unfinished name: :meth:`put` every image in order, then :meth:`finish`.

    If ``path`` is an unfinished file with the same contents, :attr:`done` images of it are kept, and writing continues after
    them. Progress is marked only for pixels that have reached the disk. A grey image (C = 1) is written three times into a file
    of three channels; if all were grey, :meth:`finish` drops two of the channels.

    Memory use is that of the given images. Raises SourceError, in one line, for a disk that is full or cannot be written, and
    for images of another size.
    """

    def __init__(self, path: Path, contents: Contents) -> None:
        self._path, self._contents = path, contents
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not self._continues():
                create(path, contents)
            header = read_header(path)
            self._file = path.open("r+b", buffering=0)
            self._reserve(header.offset)
        except OSError as error:
            raise self._unwritable(error) from error
        self._offset, self._progress = header.offset, header.progress
        marked = np.frombuffer(self._at(self._progress, 16), "<i8")
        self.done, self._coloured = int(marked[0]), bool(marked[1])
        self._unmarked = 0

    def __enter__(self) -> Packer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep the marked part for a later continuation."""
        self._file.close()

    def put(self, images: Pixels) -> None:
        """The next images, uint8 (n, C, H, W)."""
        channels, *sides = self._contents.image_shape
        if list(images.shape[2:]) != sides or images.shape[1] not in (1, channels):
            raise SourceError(
                f"an image of {images.shape[3]}x{images.shape[2]} with {images.shape[1]} channel(s) cannot go into a file of "
                f"{sides[1]}x{sides[0]} with {channels}; pass --image-size (image_size=) to bring all to one size"
            )
        self._coloured |= images.shape[1] > 1
        rows = np.ascontiguousarray(np.broadcast_to(images, (len(images), *self._contents.image_shape)))
        try:
            self._file.seek(self._offset + self.done * math.prod(self._contents.image_shape))
            buffer = rows.reshape(-1).data
            while buffer:
                buffer = buffer[self._file.write(buffer) :]
            self.done += len(images)
            self._unmarked += rows.nbytes
            if self._unmarked >= _MARKED:
                self._mark()
        except OSError as error:
            raise self._unwritable(error) from error

    def finish(self, path: Path) -> None:
        """Close the file with its digest, which reads all of it again, and move it to ``path``.

        Raises SourceError if images are missing.
        """
        if self.done != self._contents.count:
            raise SourceError(f"{self._path} has {self.done} of {self._contents.count} images; put the others too")
        try:
            self._mark()
            if not self._coloured and self._contents.image_shape[0] > 1:
                self._narrow(path)
                return
            train, test = mapped_splits(self._path, read_header(self._path))
            digest = content_digest(train, test, self._contents.class_names)
            with h5py.File(self._path, "r+", locking=False) as file:
                file.attrs["digest"] = digest
            os.fsync(self._file.fileno())
            self._file.close()
            self._path.replace(path)
        except OSError as error:
            raise self._unwritable(error) from error

    def discard(self) -> None:
        """Remove the unfinished file."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _narrow(self, path: Path) -> None:
        grey = Contents(
            class_names=self._contents.class_names,
            train_labels=self._contents.train_labels,
            test_labels=self._contents.test_labels,
            image_shape=(1, *self._contents.image_shape[1:]),
        )
        with Packer(temporary_beside(path), grey) as narrow:
            try:
                for split in mapped_splits(self._path, read_header(self._path)):
                    for part in split.parts(_NARROWED):
                        narrow.put(part[:, :1].numpy())
                narrow.finish(path)
            except BaseException:
                narrow.discard()
                raise
        self.discard()

    def _continues(self) -> bool:
        """Whether ``path`` is an unfinished file with the same contents."""
        try:
            header = read_header(self._path)
        except SourceError:  # nothing there, or nothing to go on with
            return False
        theirs, mine = header.contents, self._contents
        return (
            header.digest is None
            and (theirs.class_names, theirs.image_shape) == (mine.class_names, mine.image_shape)
            and np.array_equal(theirs.train_labels, mine.train_labels)
            and np.array_equal(theirs.test_labels, mine.test_labels)
        )

    def _reserve(self, offset: int) -> None:
        """Allocate the disk space now, so that a disk that is too small is found before the work."""
        if not hasattr(os, "posix_fallocate"):
            return
        try:
            os.posix_fallocate(self._file.fileno(), offset, self._contents.pixel_bytes)
        except OSError:
            self.discard()
            raise

    def _mark(self) -> None:
        os.fsync(self._file.fileno())
        self._file.seek(self._progress)
        self._file.write(np.array([self.done, self._coloured], "<i8").tobytes())
        self._unmarked = 0

    def _at(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size)

    def _unwritable(self, error: OSError) -> SourceError:
        why = reason(error, self._path, self._contents.pixel_bytes)
        return SourceError(f"decoded images cannot be written to {self._path.parent}: {why}{_ELSEWHERE}")


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """A context that one process at a time may enter for each unfinished ``path``; the system ends it with the process.

    On systems without locks (Windows, some network file systems) all processes may enter. Raises SourceError if the folder
    cannot be written.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise SourceError(
                f"decoded images cannot be written to {path.parent}: {reason(error, path)}{_ELSEWHERE}"
            ) from error
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Whoever held it has finished, and moved the file away from under the lock: then it is another one's turn.
            if _is(path, descriptor):
                yield
                return
        finally:
            if not os.fstat(descriptor).st_size and _is(path, descriptor):
                path.unlink()  # nothing came of it
            os.close(descriptor)


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False

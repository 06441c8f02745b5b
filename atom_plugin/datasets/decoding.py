"""Decode many image files to uint8 pixels in parallel, into one array or batch by batch.

A decoding process imports this module but not torch, so that it starts in a fraction of a second.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import starmap

import numpy as np

from atom_plugin.datasets.pixels import Decoding, Pixels, decode, size_of
from atom_plugin.datasets.unreadable import UnreadableImages, captured_stderr, why_unreadable
from atom_plugin.errors import SourceError
from atom_plugin.runtime.memory import machine_memory
from atom_plugin.runtime.progress import progress_bar

_CHUNK, _CHUNK_BYTES = 64, 2**24
# Rough cost of decoding, to tell when processes (0.3 s to start one) pay: 0.12 ms a file, 10 ns a byte.
_SECONDS_PER_FILE, _SECONDS_PER_BYTE, _WORTH_PROCESSES = 1.2e-4, 1e-8, 1.0
_MOST_WORKERS = 61  # what Windows can wait for
_NAMED = 5
_SURVEYED = 5000

_logger = logging.getLogger("atom_plugin")
_Task = tuple[Sequence[str], Decoding]


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """A chunk of decoded images: ``pixels`` (n, C, H, W), C = 1 if all are grey; None if their sizes differ.

    ``sizes`` names one file for each (width, height) found; ``failures`` has each file that cannot be read, with why;
    ``remarks`` has libtiff's messages, a line for each file.
    """

    pixels: Pixels | None
    sizes: dict[tuple[int, int], str]
    failures: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def decode_all(
    paths: Sequence[str], *, total_bytes: int, decoding: Decoding, workers: int | None, progress: bool
) -> Pixels:
    """Decode ``paths`` into one uint8 array (N, C, H, W), in their order; C is 1 if every file is grey, else 3.

    Raises what :func:`decode_into` raises, and SourceError if the images cannot fit into memory.
    """
    _check_memory(paths, decoding.image_size)
    images: Pixels | None = None
    done = 0

    def put(pixels: Pixels) -> None:
        nonlocal images, done
        images = _room(images, pixels, len(paths))
        images[done : done + len(pixels)] = pixels
        done += len(pixels)

    decode_into(put, paths, total_bytes=total_bytes, decoding=decoding, workers=workers, progress=progress)
    assert images is not None
    return images


def decode_into(
    put: Callable[[Pixels], None],
    paths: Sequence[str],
    *,
    total_bytes: int,
    decoding: Decoding,
    workers: int | None,
    progress: bool,
    skip: int = 0,
) -> None:
    """Decode ``paths``, except the first ``skip``, and pass them to ``put`` in order: uint8 (n, C, H, W), n up to 64.

    C is 1 if all n are grey, else 3. See :func:`~atom_plugin.datasets.pixels.decode` for the treatment of a file. Keeps a few
    images per process in memory, whatever the number of files. Raises UnreadableImages for files that cannot be read, after all
    were tried, and SourceError for differing sizes without an ``image_size``. Warns once about libtiff's messages.
    """
    chunk_size = _chunk_size(paths, decoding.image_size)
    tasks = [(paths[start : start + chunk_size], decoding) for start in range(skip, len(paths), chunk_size)]
    failures: dict[str, str] = {}
    remarks: list[str] = []
    sizes: dict[tuple[int, int], str] = {}
    done = skip
    chunks = _run(tasks, _worker_count(len(tasks), len(paths) - skip, total_bytes, workers))
    bar = progress_bar(len(paths), initial=skip, desc="decoding", unit="image", hidden=not progress)
    with bar, contextlib.closing(chunks):
        for (names, _), chunk in zip(tasks, chunks, strict=True):
            failures |= chunk.failures
            remarks += chunk.remarks
            sizes = chunk.sizes | sizes
            if len(sizes) > 1:
                raise _differing_sizes(sizes, paths[done + len(names) :])
            if chunk.pixels is not None and not failures:
                put(chunk.pixels)
            done += len(names)
            bar.update(len(names))
    if remarks:
        _logger.warning(
            "libtiff has messages on %d file(s), which are read nevertheless; the first: %s", len(remarks), remarks[0]
        )
    if failures:
        raise UnreadableImages(failures)


def sides_of(paths: Sequence[str], image_size: int | None) -> tuple[int, int] | None:
    """(width, height) of the images, judged by the first file; None if it cannot be read."""
    if image_size is not None:
        return image_size, image_size
    try:
        return size_of(paths[0])
    except Exception:  # decoding will say what is wrong with that file
        return None


def _decode_chunk(paths: Sequence[str], decoding: Decoding) -> _Chunk:
    decoded: list[Pixels] = []
    sizes: dict[tuple[int, int], str] = {}
    failures: dict[str, str] = {}
    remarks: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's remarks on odd metadata; what matters raises
        for path in paths:
            # libtiff writes to the process's stderr by itself, into the middle of a progress bar.
            with captured_stderr(path.lower().endswith((".tif", ".tiff"))) as said:
                try:
                    image = decode(path, decoding)
                except Exception as error:  # PIL's plugins raise anything from struct.error to SyntaxError
                    failures[path] = why_unreadable(path, error)
                    continue
            if said:
                remarks.append(f"{path}: {said[0]}")
            decoded.append(image)
            sizes.setdefault((image.shape[2], image.shape[1]), path)
    if failures or len(sizes) > 1:
        return _Chunk(pixels=None, sizes=sizes, failures=failures, remarks=remarks)
    channels = max(len(image) for image in decoded)
    pixels = np.stack([np.broadcast_to(image, (channels, *image.shape[1:])) for image in decoded])
    return _Chunk(pixels=pixels, sizes=sizes, remarks=remarks)


def _chunk_size(paths: Sequence[str], image_size: int | None) -> int:
    """Number of images per chunk: few if they are large."""
    sides = sides_of(paths, image_size)
    return _CHUNK if sides is None else min(max(_CHUNK_BYTES // (3 * sides[0] * sides[1]), 1), _CHUNK)


def _check_memory(paths: Sequence[str], image_size: int | None) -> None:
    width, height = sides_of(paths, image_size) or (0, 0)
    needed = len(paths) * width * height
    if needed > machine_memory():
        raise SourceError(
            f"{len(paths)} images of {width}x{height} take at least {needed / 2**30:.1f} GiB, more than this machine "
            "has; pass a smaller --image-size (image_size=)"
        )


def _room(images: Pixels | None, chunk: Pixels, count: int) -> Pixels:
    """The array for all images, made at the first chunk and widened to three channels at the first colour image."""
    if images is None:
        return np.empty((count, *chunk.shape[1:]), np.uint8)
    return np.repeat(images, 3, axis=1) if chunk.shape[1] > images.shape[1] else images


def _differing_sizes(sizes: dict[tuple[int, int], str], unseen: Sequence[str]) -> SourceError:
    """An error that names the sizes found, from the headers of some thousands of the next files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in unseen[:: len(unseen) // _SURVEYED + 1]:
            with contextlib.suppress(Exception):  # an unreadable file has no size to tell
                sizes.setdefault(size_of(path), path)
    named = ", ".join(f"{width}x{height} ({path})" for (width, height), path in list(sizes.items())[:_NAMED])
    more = f" and {len(sizes) - _NAMED} more" if len(sizes) > _NAMED else ""
    sides = sorted(min(size) for size in sizes)
    return SourceError(
        f"the images differ in size: {named}{more}; their short sides run from {sides[0]} to {sides[-1]} pixels. "
        "Pass --image-size (image_size=) to bring all to one size"
    )


def _worker_count(tasks: int, files: int, total_bytes: int, workers: int | None) -> int:
    if files * _SECONDS_PER_FILE + total_bytes * _SECONDS_PER_BYTE < _WORTH_PROCESSES:
        return 1
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(workers, _MOST_WORKERS, tasks)


def _run(tasks: Sequence[_Task], workers: int) -> Generator[_Chunk, None, None]:
    """The chunks in order. Uses processes, because PIL holds the interpreter's lock while it decodes."""
    done = 0
    if workers > 1:
        # Spawned, not forked: this process may hold torch's threads and their locks.
        executor = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
        try:
            for chunk in executor.map(_decode_chunk, *zip(*tasks, strict=True)):
                yield chunk
                done += 1
        except BrokenProcessPool:
            _logger.warning(
                "a decoding process died; continuing in one process. Either memory ran out, or the calling script "
                "lacks `if __name__ == '__main__':` around its work"
            )
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
    yield from starmap(_decode_chunk, tasks[done:])


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave_with_parent() -> None:
        parent.join()
        os._exit(1)

    # A worker whose parent was killed would wait for work for ever.
    threading.Thread(target=leave_with_parent, daemon=True).start()

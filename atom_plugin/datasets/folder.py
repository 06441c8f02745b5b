"""The user's own images: class folders, with or without a split, or Tiny-ImageNet's layout."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from atom_plugin.datasets import TEST_FRACTION, SourceData, SourceRequest, Split, cache, packed, takes
from atom_plugin.datasets.common import cache_home, content_digest, stored_options
from atom_plugin.datasets.decoding import decode_all, decode_into, sides_of
from atom_plugin.datasets.layouts import Layout, find_layout
from atom_plugin.datasets.packed import Contents, Packed
from atom_plugin.datasets.pixels import Decoding, Pixels, sixteen_bit_maximum
from atom_plugin.datasets.readable import without
from atom_plugin.datasets.request_fields import flag
from atom_plugin.datasets.unreadable import UnreadableImages, captured_stderr
from atom_plugin.errors import ConfigError

_LOOKED_AT = 16
_logger = logging.getLogger("atom_plugin")


@takes(
    *("data_dir", "image_size", "seed", "test_fraction", "cache_dir", "workers"),
    *("class_order", "bit_depth", "max_pixels", "follow_links", "skip_unreadable"),
)
def load_folder(request: SourceRequest) -> SourceData:
    """Your own images: DIR/train/<class>/ with DIR/test/ or DIR/val/, DIR/<class>/, or Tiny-ImageNet's layout.

    :func:`~atom_plugin.datasets.layouts.find_layout` describes the layouts, :func:`~atom_plugin.datasets.pixels.decode` the
    treatment of each kind of image file. All images become RGB, unless every one is grey. Decoded images are cached in
    ``request.cache_dir``; a change of any file's name, size or time decodes again. If they exceed
    :data:`~atom_plugin.datasets.packed.MAPPED_BYTES`, they are decoded into that cache and mapped from it. Raises ConfigError
    without ``data_dir``, SourceError for a folder or an image that cannot be used.
    """
    if request.data_dir is None:
        raise ConfigError("the folder source needs to know the folder; pass --data-dir DIR (data_dir=)")
    root = request.data_dir.absolute()
    seed, test_fraction = request.seed or 0, _test_fraction(request)
    layout = find_layout(
        root,
        seed=seed,
        test_fraction=test_fraction,
        class_order=request.class_order,
        follow_links=request.follow_links,
    )
    idle = [name for name in ("seed", "test_fraction") if getattr(request, name) is not None]
    if idle and not layout.seeded and (request.validation is None or "test_fraction" in idle):
        raise ConfigError(f"{flag(idle[-1])} ({idle[-1]}=) has no effect: {root} has its own test images; leave it out")
    _logger.info(
        "%s: %d training and %d test images of %d classes",
        root,
        len(layout.train),
        len(layout.test),
        len(layout.class_names),
    )
    decoding = request.decoding
    _tell_unused_bits([str(root / file.path) for file in layout.train], decoding)
    found = _cached(layout, request) or (_readable if request.skip_unreadable else _decoded)(layout, request)
    return SourceData(
        name="folder",
        train=found.train,
        test=found.test,
        class_names=layout.class_names,
        fingerprint=found.digest,
        options=stored_options(
            request,
            data_dir=str(root),
            **({"seed": seed, "test_fraction": test_fraction} if layout.seeded else {}),
            **_reading_options(request),
        ),
    )


def _test_fraction(request: SourceRequest) -> float:
    return TEST_FRACTION if request.test_fraction is None else request.test_fraction


def _cached(layout: Layout, request: SourceRequest) -> Packed | None:
    """The decoded images of an earlier call, if nothing changed since."""
    path = _cache_path(layout, request)
    if request.skip_unreadable and (found := cache.read(_readable_path(path))) is not None:
        missing = len(layout.train) + len(layout.test) - len(found.train) - len(found.test)
        _logger.warning("%d image file(s) of %s cannot be read and were left out", missing, layout.root)
        return found
    return cache.read(path)


def _readable(layout: Layout, request: SourceRequest) -> Packed:
    """:func:`_decoded` of the files that can be read; a warning names the others.

    The result is cached under the name of all files, so that a later call need not try the others again.
    """
    try:
        return _decoded(layout, request)
    except UnreadableImages as error:
        _logger.warning("%d image file(s) cannot be read and are left out: %s", len(error.reasons), error.named)
        kept = without(layout, error.reasons, seed=request.seed or 0, test_fraction=_test_fraction(request))
    return _decoded(kept, request, _readable_path(_cache_path(layout, request)))


def _readable_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}-readable.h5")


def _decoded(layout: Layout, request: SourceRequest, path: Path | None = None) -> Packed:
    """All images of ``layout``, written to the cache at ``path``, by default the layout's own place."""
    files = [*layout.train, *layout.test]
    paths = [str(layout.root / file.path) for file in files]
    how: dict[str, Any] = {
        "total_bytes": sum(file.size for file in files),
        "decoding": request.decoding,
        "workers": request.workers,
        "progress": request.progress,
    }
    width, height = sides_of(paths, request.image_size) or (0, 0)
    contents = Contents(
        class_names=layout.class_names,
        train_labels=layout.train_labels,
        test_labels=layout.test_labels,
        image_shape=(3, height, width),
    )
    path = path or _cache_path(layout, request)
    if contents.pixel_bytes > packed.MAPPED_BYTES:
        return cache.fill(path, contents, lambda put, skip: decode_into(put, paths, skip=skip, **how))
    images = decode_all(paths, **how)
    train, test = _splits(layout, images)
    digest = content_digest(train, test, layout.class_names)
    cache.write(path, images, replace(contents, image_shape=images.shape[1:]))
    return Packed(train=train, test=test, class_names=layout.class_names, digest=digest)


def _reading_options(request: SourceRequest) -> dict[str, Any]:
    """The options that determine classes and pixels, besides the split, if not the default; older sets name none of them."""
    return {
        "class_order": request.class_order,
        "bit_depth": request.bit_depth,
        "max_pixels": request.max_pixels,
        "follow_links": request.follow_links or None,
        "skip_unreadable": request.skip_unreadable or None,
    }


def _tell_unused_bits(paths: Sequence[str], decoding: Decoding) -> None:
    """Warn about 16-bit images whose values fill 8 to 14 bits, as from scanners and microscopes: they become nearly black.

    Looks at a sample of the files, so that it takes no time and does not depend on the cache.
    """
    if decoding.bit_depth != 16:
        return
    looked_at, largest, grey = 0, 0, False
    for path in paths[:: len(paths) // _LOOKED_AT + 1]:
        with contextlib.suppress(Exception), warnings.catch_warnings():  # decoding will say what is wrong with a file
            warnings.simplefilter("ignore")
            with captured_stderr(path.lower().endswith((".tif", ".tiff"))):
                found = sixteen_bit_maximum(path, decoding)
            if found is not None:
                looked_at, largest, grey = looked_at + 1, max(largest, found[0]), grey or found[1]
    if looked_at and largest < 2**14:
        depth = max(largest.bit_length(), 8)
        remedy = f"--bit-depth {depth} (bit_depth=) reads them as {depth} bits" if grey else "convert them to 8 bits"
        _logger.warning(
            "the 16-bit images (%d checked) have values up to only %d of 65535, and become dark; %s",
            *(looked_at, largest, remedy),
        )


def _cache_path(layout: Layout, request: SourceRequest) -> Path:
    folder = request.cache_dir or cache_home() / "decoded"
    return folder / f"{cache.cache_key(layout, request.decoding)[:40]}.h5"


def _splits(layout: Layout, images: Pixels) -> tuple[Split, Split]:
    """Both splits as views of ``images``: one copy in memory."""
    pixels, count = torch.from_numpy(images), len(layout.train)
    return (
        Split(images=pixels[:count], labels=torch.tensor(layout.train_labels)),
        Split(images=pixels[count:], labels=torch.tensor(layout.test_labels)),
    )

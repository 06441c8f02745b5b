"""Image sources: names of sets of labelled real images, and the function that loads them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atom_plugin.datasets.class_names import CLASS_ORDERS
from atom_plugin.datasets.pixels import MAX_PIXELS, Decoding
from atom_plugin.datasets.request_fields import refuse_unread, takes
from atom_plugin.datasets.source_data import SourceData, Split
from atom_plugin.errors import ConfigError, PluginError, SourceError, require, shown
from atom_plugin.runtime.progress import phase
from atom_plugin.runtime.registry import Registry
from atom_plugin.runtime.settings import check_values, config_class

__all__ = ["SOURCES", "SourceData", "SourceLoader", "SourceRequest", "Split", "load_source", "reload_source", "takes"]

TEST_FRACTION = 0.2  # of an unsplit folder
SPLIT = ("seed", "test_fraction")
"""The options that determine how an unsplit folder is split."""


@config_class
@dataclass(frozen=True, kw_only=True)
class SourceRequest:
    """How to load a source; a field without effect on the source is an error (:func:`takes`). Raises ConfigError for impossible
    values.

    ``data_dir``: folder of the files, also for downloads; None means the source's default folder. ``image_size``: side to
    resize to (square), None for the source's own. ``download``: download even if files are present. ``offline``: download
    nothing, and create nothing in ``data_dir``. ``seed`` and ``test_fraction``: the split of an unsplit folder, None for 0 and
    :data:`TEST_FRACTION`. ``validation``: the held-out part of the training images, a fraction below 1 or a number, drawn by
    ``seed`` (:func:`~atom_plugin.datasets.validation.hold_out`). ``cache_dir``: folder for decoded images, None for the user's
    cache folder. ``workers``: decoding processes, None for one per core. ``progress``: show a progress bar on stderr. Folders
    may also be strings.

    For a folder of images: ``class_order``, "name" or "natural" (numbers by value), None for "name" and a warning if the two
    differ; ``bit_depth``, number of bits that 16-bit grey files use, None for 16; ``max_pixels`` of an image, None for
    :data:`~atom_plugin.datasets.pixels.MAX_PIXELS`; ``follow_links``: also follow links that lead out of the folder;
    ``skip_unreadable``: leave out image files that cannot be read, with a warning, in place of an error.
    """

    data_dir: Path | None = None
    image_size: int | None = None
    download: bool = False
    offline: bool = False
    seed: int | None = None
    test_fraction: float | None = None
    validation: float | None = None
    cache_dir: Path | None = None
    workers: int | None = None
    progress: bool = False
    class_order: str | None = None
    bit_depth: int | None = None
    max_pixels: int | None = None
    follow_links: bool = False
    skip_unreadable: bool = False

    def __post_init__(self) -> None:
        for name in ("data_dir", "cache_dir"):
            value = getattr(self, name)
            if isinstance(value, str | Path):
                object.__setattr__(self, name, Path(value).expanduser())
        check_values(self)
        for name in ("image_size", "workers", "max_pixels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        if self.test_fraction is not None and not 0 < self.test_fraction < 1:
            raise ConfigError(f"test_fraction must be between 0 and 1, not {self.test_fraction}; 0.2 is usual")
        amount = self.validation
        if amount is not None and not (0 < amount < 1 or (amount >= 1 and float(amount).is_integer())):
            raise ConfigError(f"validation must be a fraction between 0 and 1 or a number of images, not {amount}")
        if self.download and self.offline:
            raise ConfigError("found both download and offline, expected at most one; leave one out")
        if self.class_order not in (None, *CLASS_ORDERS):
            raise ConfigError(f"class_order must be {' or '.join(CLASS_ORDERS)}, not {self.class_order!r}")
        if self.bit_depth is not None and not 8 <= self.bit_depth <= 16:
            raise ConfigError(
                f"bit_depth must be 8 to 16, not {self.bit_depth}; scanners and microscopes write 10 to 14"
            )

    @property
    def decoding(self) -> Decoding:
        """How an image file is decoded."""
        return Decoding(
            image_size=self.image_size, bit_depth=self.bit_depth or 16, max_pixels=self.max_pixels or MAX_PIXELS
        )


SourceLoader = Callable[[SourceRequest], SourceData]
SOURCES: Registry[SourceLoader] = Registry("image source", "atom_plugin.sources")
"""Image sources by name: built-in sources, sources of installed plugins, and sources added by ``SOURCES.register``."""

# What SourceData.options may hold: the fields of a request that say which images come out, and their JSON types.
_STORED_OPTIONS: dict[str, type | tuple[type, ...]] = {
    "data_dir": str,
    "image_size": int,
    "seed": int,
    "test_fraction": (int, float),
    "validation": (int, float),
    "class_order": str,
    "bit_depth": int,
    "max_pixels": int,
    "follow_links": bool,
    "skip_unreadable": bool,
}


def load_source(name: str, request: SourceRequest) -> SourceData:
    """Load the source ``name``, without its validation images if some are held out.

    Raises PluginError for an unknown name, SourceError if its images cannot be used, ConfigError for an impossible validation
    part and for a field of the request that has no effect on this source.
    """
    require("request", request, SourceRequest)
    if isinstance(name, str) and name not in SOURCES.names() and Path(name).is_dir():
        raise PluginError(
            f"{shown(name)} is a folder, and no image source; give --dataset folder --data-dir {shlex.quote(name)} (data_dir=)"
        )
    loader = SOURCES.get(name)
    refuse_unread(name, loader, request)
    with phase(f"reading {name}"):
        data = loader(request)
    if request.validation is None:
        return data
    from atom_plugin.datasets.validation import hold_out

    return hold_out(data, request.validation, seed=request.seed or 0)


def reload_source(name: str, options: Mapping[str, Any], request: SourceRequest | None = None) -> SourceData:
    """Load a source again from the ``options`` that its :class:`SourceData` stored.

    ``request`` says where the files are now and how to read them, for a set from another machine; its other fields are ignored.
    The options may come from an untrusted file, so they name no folder to write to: without ``data_dir`` or ``download`` in the
    request nothing is downloaded. Raises what :func:`load_source` raises, and SourceError for unknown options.
    """
    asked = request or SourceRequest()
    fields: dict[str, Any] = {"offline": asked.data_dir is None and not asked.download}
    for key, value in options.items():
        if key not in _STORED_OPTIONS:
            known = ", ".join(_STORED_OPTIONS)
            raise SourceError(f"the source {name!r} was stored with the option {key!r}; known here: {known}; update")
        if value is None:
            continue
        if not isinstance(value, _STORED_OPTIONS[key]) or isinstance(value, bool) != (_STORED_OPTIONS[key] is bool):
            raise SourceError(
                f"the source {name!r} was stored with {key} = {value!r}, which is not a valid {key}; make the set again"
            )
        fields[key] = value
    fields |= {name: getattr(asked, name) for name in ("download", "cache_dir", "workers", "progress")}
    if not fields["offline"]:
        fields["data_dir"] = asked.data_dir
    return load_source(name, SourceRequest(**fields))

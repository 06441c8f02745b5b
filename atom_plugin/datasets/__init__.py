"""Image sources: names for sets of labelled real images, and the one call that loads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atom_plugin.datasets.class_names import CLASS_ORDERS
from atom_plugin.datasets.pixels import MAX_PIXELS, Decoding
from atom_plugin.datasets.request_fields import refuse_unread, takes
from atom_plugin.datasets.source_data import SourceData, Split
from atom_plugin.errors import ConfigError, SourceError, require
from atom_plugin.runtime.progress import phase
from atom_plugin.runtime.registry import Registry
from atom_plugin.runtime.settings import check_values, config_class

__all__ = ["SOURCES", "SourceData", "SourceLoader", "SourceRequest", "Split", "load_source", "reload_source", "takes"]

TEST_FRACTION = 0.2  # of an unsplit folder
SPLIT = ("seed", "test_fraction")
"""The options that say how an unsplit folder is split."""


@config_class
@dataclass(frozen=True, kw_only=True)
class SourceRequest:
    """How to load a source, which refuses what does not concern it (:func:`takes`). Raises ConfigError for impossible values.

    ``data_dir``: where the files are, or go; None means the source's default place.
    ``image_size``: side to resize to (square), None for the source's own.
    ``download``: fetch even where files are present. ``offline``: fetch nothing, and create nothing in ``data_dir``.
    ``seed`` and ``test_fraction``: the split of an unsplit folder, None for 0 and :data:`TEST_FRACTION`.
    ``validation``: a share of the training images below 1, or their number, to be held out of them, drawn by ``seed``
    (:func:`~atom_plugin.datasets.validation.hold_out`).
    ``cache_dir``: where decoded images are kept, None for the user's cache folder. ``workers``: decoding processes,
    None for one per core. ``progress``: show a bar on stderr. Folders may also be given as strings.

    Of a folder of images: ``class_order``, "name" or "natural" (numbers by value), None for "name" and a warning where the two
    differ; ``bit_depth``, how many bits 16-bit grey files use, None for 16; ``max_pixels`` of an image, None for
    :data:`~atom_plugin.datasets.pixels.MAX_PIXELS`; ``follow_links``: also those that lead out of the folder.
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
            raise ConfigError(f"test_fraction must lie between 0 and 1, not {self.test_fraction}; 0.2 is usual")
        amount = self.validation
        if amount is not None and not (0 < amount < 1 or (amount >= 1 and float(amount).is_integer())):
            raise ConfigError(f"validation must be a share between 0 and 1 or a number of images, not {amount}")
        if self.download and self.offline:
            raise ConfigError("found both download and offline, expected one of them at most")
        if self.class_order not in (None, *CLASS_ORDERS):
            raise ConfigError(f"class_order must be {' or '.join(CLASS_ORDERS)}, not {self.class_order!r}")
        if self.bit_depth is not None and not 8 <= self.bit_depth <= 16:
            raise ConfigError(
                f"bit_depth must be 8 to 16, not {self.bit_depth}; scanners and microscopes write 10 to 14"
            )

    @property
    def decoding(self) -> Decoding:
        """How an image file becomes pixels."""
        return Decoding(
            image_size=self.image_size, bit_depth=self.bit_depth or 16, max_pixels=self.max_pixels or MAX_PIXELS
        )


SourceLoader = Callable[[SourceRequest], SourceData]
SOURCES: Registry[SourceLoader] = Registry("image source", "atom_plugin.sources")
"""Image sources by name: the built-in ones, those of installed plugins, and what ``SOURCES.register`` adds."""

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
}


def load_source(name: str, request: SourceRequest) -> SourceData:
    """Load the source ``name``, without its validation images where some are to be held out.

    Raises PluginError for an unknown name, SourceError where its images fail, ConfigError for an impossible validation part and
    for a field of the request that has no effect on this source.
    """
    require("request", request, SourceRequest)
    loader = SOURCES.get(name)
    refuse_unread(name, loader, request)
    with phase(f"reading {name}"):
        data = loader(request)
    if request.validation is None:
        return data
    from atom_plugin.datasets.validation import hold_out

    return hold_out(data, request.validation, seed=request.seed or 0)


def reload_source(name: str, options: Mapping[str, Any], request: SourceRequest | None = None) -> SourceData:
    """Load a source again from the ``options`` that its :class:`SourceData` carried: they say which images.

    ``request`` says where these are, for a set that came from another machine, and how to read them: its other fields do not
    count. The options may come from somebody else's file, so they name no place to write to: without ``data_dir`` or
    ``download`` in the request nothing is fetched at all. Raises what :func:`load_source` raises, and SourceError for options
    it does not understand.
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
            raise SourceError(f"the source {name!r} was stored with {key} = {value!r}, which is no {key}")
        fields[key] = value
    fields |= {name: getattr(asked, name) for name in ("download", "cache_dir", "workers", "progress")}
    if not fields["offline"]:
        fields["data_dir"] = asked.data_dir
    return load_source(name, SourceRequest(**fields))

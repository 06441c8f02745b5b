"""Image sources: names for sets of labelled real images, and the one call that loads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atom_plugin.datasets.class_names import CLASS_ORDERS
from atom_plugin.datasets.pixels import MAX_PIXELS, Decoding
from atom_plugin.errors import ConfigError, SourceError
from atom_plugin.runtime.registry import Registry

if TYPE_CHECKING:
    # Not at run time: decoding processes import this package, and must not wait for torch.
    import torch

    from atom_plugin.datasets.mapped import MappedImages


@dataclass(frozen=True, kw_only=True)
class SourceRequest:
    """How to load a source. A source reads what concerns it. Raises ConfigError for impossible values.

    ``data_dir``: where the files are, or go; None means the source's default place.
    ``image_size``: side to resize to (square), None for the source's own.
    ``download``: fetch even where files are present. ``seed`` and ``test_fraction``: the split of an unsplit folder.
    ``cache_dir``: where decoded images are kept, None for the user's cache folder. ``workers``: decoding processes,
    None for one per core. ``progress``: show a bar on stderr. Folders may also be given as strings.

    Of a folder of images: ``class_order``, "name" or "natural" (numbers by value), None for "name" and a warning where the two
    differ; ``bit_depth``, how many bits 16-bit grey files use, None for 16; ``max_pixels`` of an image, None for
    :data:`~atom_plugin.datasets.pixels.MAX_PIXELS`; ``follow_links``: also those that lead out of the folder.
    """

    data_dir: Path | None = None
    image_size: int | None = None
    download: bool = False
    seed: int = 0
    test_fraction: float = 0.2
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
            if value is not None:
                object.__setattr__(self, name, Path(value).expanduser())
        for name in ("image_size", "workers", "max_pixels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        if not 0 < self.test_fraction < 1:
            raise ConfigError(f"test_fraction must lie between 0 and 1, not {self.test_fraction}; 0.2 is usual")
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """``images`` uint8 (N, C, H, W) and ``labels`` int64 (N,). Raises SourceError for anything else.

    ``mapped`` is the file that a large source's ``images`` are a read-only view of: indexing copies rows, and whoever goes
    through all of them does so by :meth:`parts`, which holds none longer than needed.
    """

    images: torch.Tensor
    labels: torch.Tensor
    mapped: MappedImages | None = None

    def __post_init__(self) -> None:
        import torch

        images, labels = self.images, self.labels
        if any(tensor.layout != torch.strided or tensor.is_meta for tensor in (images, labels)):
            raise SourceError(
                f"a source's images and labels must hold every value, not {images.layout} on {images.device}; call to_dense()"
            )
        if images.ndim != 4 or images.dtype != torch.uint8:
            raise SourceError(f"a source's images must be uint8 (N, C, H, W), not {images.dtype} {tuple(images.shape)}")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise SourceError(
                f"a source's labels must be int64 ({len(images)},), not {labels.dtype} {tuple(labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, indices: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """Images ``indices`` (n,): uint8 (n, C, H, W), in ``out`` where given. SourceError where a file fails."""
        if self.mapped is not None:
            return self.mapped.rows(indices, out=out)
        import torch

        return torch.index_select(self.images, 0, indices, out=out)

    def parts(self, size: int) -> Iterator[torch.Tensor]:
        """All images in turn: uint8 (up to ``size``, C, H, W) each, valid until the next."""
        return iter(self.images.split(size)) if self.mapped is None else self.mapped.parts(size)


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceData:
    """A loaded source: its splits as uint8, in memory or mapped from a file, and what a set made from it must remember.

    ``mean`` and ``std`` are the constants the field uses for a known set ([0, 1] scale), else None: to be computed.
    ``fingerprint`` is the sha256 of images, labels and class names, the same wherever the files decode alike.
    ``options`` are plain JSON: what :func:`reload_source` needs, beside the name, to load the same again.
    Raises SourceError where the splits do not fit each other or the class names.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    fingerprint: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    options: dict[str, Any]

    def __post_init__(self) -> None:
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            raise SourceError(
                f"{self.name}: training images are {tuple(self.train.images.shape[1:])}, "
                f"test images {tuple(self.test.images.shape[1:])}; they must have one shape"
            )
        for name in self.class_names:
            # A set's file holds Unicode text; found out here rather than when the finished set is stored.
            if "\0" in name or name != name.encode("utf-8", "ignore").decode():
                raise SourceError(f"{self.name}: the class name {name!r} is not Unicode text; rename that class")
        for kind, split in (("training", self.train), ("test", self.test)):
            if not len(split):
                raise SourceError(f"{self.name}: the {kind} split holds no images")
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= len(self.class_names):
                raise SourceError(
                    f"{self.name}: {kind} labels run from {low} to {high}, but there are "
                    f"{len(self.class_names)} class names"
                )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.train.images.shape[1:]
        return int(channels), int(height), int(width)


SourceLoader = Callable[[SourceRequest], SourceData]
SOURCES: Registry[SourceLoader] = Registry("image source", "atom_plugin.sources")

# What SourceData.options may hold: the fields of a request that say which images come out, and their JSON types.
_STORED_OPTIONS: dict[str, type | tuple[type, ...]] = {
    "data_dir": str,
    "image_size": int,
    "seed": int,
    "test_fraction": (int, float),
    "class_order": str,
    "bit_depth": int,
    "max_pixels": int,
    "follow_links": bool,
}


def load_source(name: str, request: SourceRequest) -> SourceData:
    """Load the source ``name``. Raises PluginError for an unknown name, SourceError where its images fail."""
    return SOURCES.get(name)(request)


def reload_source(
    name: str, options: Mapping[str, Any], *, data_dir: Path | None = None, progress: bool = False
) -> SourceData:
    """Load a source again from the ``options`` that its :class:`SourceData` carried.

    ``data_dir`` overrides the stored one, for a set that came from another machine. Raises what
    :func:`load_source` raises, and SourceError for options it does not understand.
    """
    fields: dict[str, Any] = {}
    for key, value in options.items():
        if key not in _STORED_OPTIONS:
            known = ", ".join(_STORED_OPTIONS)
            raise SourceError(f"the source {name!r} was stored with the option {key!r}; known here: {known}; update")
        if value is None:
            continue
        if not isinstance(value, _STORED_OPTIONS[key]) or isinstance(value, bool) != (_STORED_OPTIONS[key] is bool):
            raise SourceError(f"the source {name!r} was stored with {key} = {value!r}, which is no {key}")
        fields[key] = value
    if data_dir is not None:
        fields["data_dir"] = data_dir
    return load_source(name, SourceRequest(**fields, progress=progress))

"""The fields of a request that each source reads, so that a field without effect is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from atom_plugin.errors import ConfigError

Loader = TypeVar("Loader", bound=Callable[..., object])

_SAY_NO_IMAGES = {"progress", "offline"}  # how to load, whatever the source
_FLAGS = {"seed": "--split-seed"}  # others are called as the field is


def takes(*names: str) -> Callable[[Loader], Loader]:
    """Declare which fields of a request a loader reads: ``@takes("image_size")``. A loader without a declaration reads any."""

    def declare(loader: Loader) -> Loader:
        loader.takes = frozenset(names)  # type: ignore[attr-defined]
        return loader

    return declare


def flag(name: str) -> str:
    """The command-line option that fills the field ``name`` of a request."""
    return _FLAGS.get(name, "--" + name.replace("_", "-"))


def refuse_unread(source: str, loader: Callable[..., object], request: Any) -> None:
    """Raise ConfigError for a field of ``request``, a SourceRequest, that the loader of ``source`` does not read."""
    read = getattr(loader, "takes", None)
    if read is None:
        return
    if request.validation is not None:
        read |= {"validation", "seed"}  # of any source's training images
    for each in fields(request):
        given = getattr(request, each.name) != each.default
        if given and each.name not in read | _SAY_NO_IMAGES:
            remedy = (
                "give --dataset folder for images of your own, or leave it out"
                if each.name == "data_dir"
                else "leave it out"
            )
            known = ", ".join(flag(name) for name in sorted(read))
            raise ConfigError(
                f"{flag(each.name)} ({each.name}=) has no effect on the source {source!r}, which reads {known}; {remedy}"
            )

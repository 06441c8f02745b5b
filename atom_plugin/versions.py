"""The versions that go into every result."""

from __future__ import annotations

import platform
from importlib import metadata

_PACKAGES = ("atom-plugin", "torch", "torchvision", "kornia", "numpy", "h5py")


def package_versions() -> dict[str, str]:
    """Version by package, Python's own included. No date, no host: the same run writes the same bytes."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in _PACKAGES}}

"""Versions of this package and of the packages that a result depends on. Imports nothing heavy, because a build reads it."""

from __future__ import annotations

import platform
from importlib import metadata

__version__ = "0.1.0"

_PACKAGES = ("atom-plugin", "torch", "torchvision", "kornia", "numpy", "h5py")


def package_versions() -> dict[str, str]:
    """Version by package, including Python; a package that is not installed is left out.

    No date, no host, so that the same run writes the same bytes.
    """
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # a checkout on the path, or ZCA's package, which not every run needs
            continue
    return versions

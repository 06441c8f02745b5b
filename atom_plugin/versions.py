"""The versions that go into every result."""

from __future__ import annotations

import platform
from importlib import metadata

_PACKAGES = ("atom-plugin", "torch", "torchvision", "kornia", "numpy", "h5py")


def package_versions() -> dict[str, str]:
    """Version by package, Python's own included; a package that is not installed is left out.

    No date, no host: the same run writes the same bytes.
    """
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # a checkout on the path, or ZCA's package, which not every run needs
            continue
    return versions

"""The memory of this machine, to refuse work that cannot fit before it starts."""

from __future__ import annotations

import os


def machine_memory() -> int:
    """Bytes of physical memory; a huge number if the system does not report it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**63

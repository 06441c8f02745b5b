"""How much memory this machine has, for refusing what cannot fit before it is tried."""

from __future__ import annotations

import os


def machine_memory() -> int:
    """Bytes of physical memory; more than any machine has where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**63

"""What a set tells of the real images that it was made from, measured: attacks on networks trained on it, and copies in it."""

from __future__ import annotations

from atom_plugin.audit.auditing import audit, with_baselines
from atom_plugin.audit.result import Audit, AuditConfig, AuditedSet

__all__ = ["Audit", "AuditConfig", "AuditedSet", "audit", "with_baselines"]

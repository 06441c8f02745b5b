"""Measure how much a set reveals of the real images it was made from: membership inference, and near copies."""

from __future__ import annotations

from atom_plugin.audit.auditing import audit, with_baselines
from atom_plugin.audit.result import Audit, AuditConfig, AuditedSet

__all__ = ["Audit", "AuditConfig", "AuditedSet", "audit", "with_baselines"]

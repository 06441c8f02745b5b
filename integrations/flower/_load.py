"""Import Flower, or name what is missing."""

from __future__ import annotations

from atom_plugin.integrations._extra import import_extra

_MODULES = ("flwr.app", "flwr.clientapp", "flwr.serverapp.strategy")


def load_flower() -> None:
    """Import flwr. Raises MissingExtraError (also an ImportError), one line, if that fails."""
    import_extra("flwr", _MODULES, extra="flower")

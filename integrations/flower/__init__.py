"""Flower: clients distil their own images and send those, the server trains the global network on all that came.

:func:`answer` is the client's part, called inside a ClientApp; :class:`MergeSets` is the server's, a strategy of a ServerApp.
Importing this imports flwr, and nothing else of this package does. Raises MissingExtraError (an ImportError) where it is not
installed: ``pip install 'atom-plugin[flower]'``.
"""

from atom_plugin.integrations.flower._load import load_flower

load_flower()

from atom_plugin.integrations.flower.client import answer  # noqa: E402
from atom_plugin.integrations.flower.server import MergeSets, Refusal  # noqa: E402

__all__ = ["MergeSets", "Refusal", "answer"]

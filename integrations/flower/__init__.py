"""Flower: clients distil their images and send the result; the server trains the global network on all received images.

A ClientApp calls :func:`answer`; a ServerApp uses the strategy :class:`MergeSets`. Only this subpackage imports flwr. Raises
MissingExtraError (an ImportError) if flwr is not installed: ``pip install 'atom-plugin[flower]'``.
"""

from atom_plugin.integrations.flower._load import load_flower

load_flower()

from atom_plugin.integrations.flower.client import answer  # noqa: E402
from atom_plugin.integrations.flower.server import MergeSets, Refusal  # noqa: E402

__all__ = ["MergeSets", "Refusal", "answer"]

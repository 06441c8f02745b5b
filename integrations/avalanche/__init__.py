"""Avalanche: replay with a memory of synthetic images, as storage policy, plugins and a whole experiment.

Importing this imports avalanche-lib, and nothing else of this package does. Raises MissingExtraError (an ImportError) where
it is not installed: ``pip install 'atom-plugin[avalanche]'``.
"""

from atom_plugin.integrations.avalanche._load import load_avalanche

load_avalanche()

from atom_plugin.integrations.avalanche.plugins import SyntheticReplay, TrainFromMemory  # noqa: E402
from atom_plugin.integrations.avalanche.storage_policy import SyntheticMemory  # noqa: E402
from atom_plugin.integrations.avalanche.stream_samples import PreprocessingTransform  # noqa: E402

__all__ = ["PreprocessingTransform", "SyntheticMemory", "SyntheticReplay", "TrainFromMemory"]

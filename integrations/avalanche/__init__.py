"""Avalanche: replay from a memory of synthetic images, as a storage policy, as plugins and as a complete experiment.

Only this subpackage imports avalanche-lib. Raises MissingExtraError (an ImportError) if it is not installed:
``pip install 'atom-plugin[avalanche]'``.
"""

from atom_plugin.integrations.avalanche._load import load_avalanche

load_avalanche()

from atom_plugin.integrations.avalanche.from_memory import TrainFromMemory  # noqa: E402
from atom_plugin.integrations.avalanche.plugins import SyntheticReplay  # noqa: E402
from atom_plugin.integrations.avalanche.storage_policy import SyntheticMemory  # noqa: E402
from atom_plugin.integrations.avalanche.stream_samples import PreprocessingTransform  # noqa: E402

__all__ = ["PreprocessingTransform", "SyntheticMemory", "SyntheticReplay", "TrainFromMemory"]

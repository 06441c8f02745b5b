"""Mammoth: fill its buffer with synthetic images; and a model for its registry that replays a distilled memory.

Only :mod:`atom_plugin.integrations.mammoth.model` imports Mammoth; a file in Mammoth's ``models`` folder imports that module.
Mammoth is a folder with a ``main.py``, not an installable package.
"""

from atom_plugin.integrations.mammoth.buffers import fill_buffer
from atom_plugin.integrations.mammoth.task_data import class_names_of, normalisation_of, task_source

__all__ = ["class_names_of", "fill_buffer", "normalisation_of", "task_source"]

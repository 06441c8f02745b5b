"""``python -m atom_plugin``: the command line, where the program `atom-cli` is not on the path."""

from __future__ import annotations

import sys

from atom_plugin.cli.main import main

sys.exit(main())

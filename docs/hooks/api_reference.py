"""What mkdocstrings needs here: the package as it installs, and Sphinx's roles in docstrings read as code."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority

ROOT = Path(__file__).parents[2]
_folder = tempfile.TemporaryDirectory(prefix="atom-plugin-docs-")  # removed when the process ends


@event_priority(100)  # before mkdocstrings reads its settings
def on_config(config: Any) -> None:
    """Called by MkDocs: links that place cli/ and integrations/ inside the package, where setup.cfg installs them."""
    package = Path(_folder.name) / "atom_plugin"
    package.mkdir(exist_ok=True)
    for part in (*(ROOT / "atom_plugin").iterdir(), ROOT / "cli", ROOT / "integrations"):
        if not (package / part.name).exists():
            (package / part.name).symlink_to(part)
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [_folder.name]


def on_page_content(html: str, **_: Any) -> str:
    """Called by MkDocs for each page: ``:func:`~a.b.c``` reads as the code ``c``, without the tilde as ``a.b.c``."""
    return re.sub(r":[a-z]+:<code>(~?)\.*([^<]*)</code>", _role, html)


def _role(found: re.Match[str]) -> str:
    return f"<code>{found[2].rpartition('.')[2] if found[1] else found[2]}</code>"

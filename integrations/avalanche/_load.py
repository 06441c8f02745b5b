"""Import Avalanche: say what is missing, keep its import warnings to itself, and need no writable home folder."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atom_plugin.integrations._extra import import_extra

_MODULES = ("avalanche.benchmarks", "avalanche.evaluation.metrics", "avalanche.training.supervised")


def load_avalanche() -> None:
    """Import avalanche-lib. Raises MissingExtraError (an ImportError, too) in one line where that fails."""
    with warnings.catch_warnings(), _writable_home():
        # It warns of solvers and of its own deprecated modules while it is imported; nobody here can act on that.
        warnings.simplefilter("ignore")
        import_extra("avalanche-lib", _MODULES, extra="avalanche")


@contextmanager
def _writable_home() -> Iterator[None]:
    """Avalanche writes ``~/.avalanche/config.json`` while it is imported; where it cannot, it gets another home for that."""
    try:
        root = Path("~/.avalanche").expanduser()
        root.mkdir(parents=True, exist_ok=True)
        config = root / "config.json"
        if not config.exists():
            config.touch()
            config.unlink()
    except (OSError, RuntimeError):  # RuntimeError: an account without a home, as in some containers
        with tempfile.TemporaryDirectory() as folder:
            kept = {name: os.environ.get(name) for name in ("HOME", "USERPROFILE")}
            os.environ.update(dict.fromkeys(kept, folder))
            try:
                yield
            finally:
                for name, value in kept.items():
                    os.environ.pop(name) if value is None else os.environ.update({name: value})
    else:
        yield

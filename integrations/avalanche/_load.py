"""Import Avalanche: name what is missing, suppress its import warnings, and work without a writable home folder."""

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
    """Import avalanche-lib. Raises MissingExtraError (also an ImportError), one line, if that fails."""
    with warnings.catch_warnings(), _writable_home():
        # Its import warns about solvers and its deprecated modules; users of this package cannot change that.
        warnings.simplefilter("ignore")
        import_extra("avalanche-lib", _MODULES, extra="avalanche")


@contextmanager
def _writable_home() -> Iterator[None]:
    """Avalanche's import writes ``~/.avalanche/config.json``; if it cannot, it gets a temporary home folder."""
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

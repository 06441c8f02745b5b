"""Import a library that an extra of this package installs; if that fails, one line names what is missing."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from atom_plugin.errors import MissingExtraError


def import_extra(distribution: str, modules: Iterable[str], *, extra: str) -> None:
    """Import ``modules`` of ``distribution``, all of one top-level package.

    Raises MissingExtraError (also an ImportError) with the command that installs atom-plugin's ``extra``.
    """
    remedy = f"pip install 'atom-plugin[{extra}]'"
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == module.partition(".")[0]:
                raise MissingExtraError(f"{distribution} is not installed; install it with: {remedy}") from None
            raise MissingExtraError(
                f"{distribution} cannot be imported because {error.name!r} is missing; reinstall it with: {remedy}"
            ) from error
        except Exception as error:
            raise MissingExtraError(
                f"{distribution} cannot be imported ({type(error).__name__}: {error}); reinstall it with: {remedy}"
            ) from error

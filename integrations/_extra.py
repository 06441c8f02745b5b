"""Import a library that only an extra of this package installs, and say in a line what is missing where that fails."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from atom_plugin.errors import MissingExtraError


def import_extra(distribution: str, modules: Iterable[str], *, extra: str) -> None:
    """Import ``modules`` of ``distribution``, all of one top-level package.

    Raises MissingExtraError (an ImportError, too) that says how to install atom-plugin's ``extra``.
    """
    remedy = f"pip install 'atom-plugin[{extra}]'"
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == module.partition(".")[0]:
                raise MissingExtraError(f"{distribution} is not installed; install it with: {remedy}") from None
            raise MissingExtraError(
                f"{distribution} cannot be imported, since {error.name!r} is missing; install it anew with: {remedy}"
            ) from error
        except Exception as error:
            raise MissingExtraError(
                f"{distribution} cannot be imported ({type(error).__name__}: {error}); install it anew with: {remedy}"
            ) from error

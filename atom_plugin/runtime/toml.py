"""Settings that people write: TOML files, read with errors that name the file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from atom_plugin.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path) -> dict[str, Any]:
    """The tables and values of a TOML file. Raises ConfigError where it cannot be read or is no TOML."""
    try:
        with path.open("rb") as file:
            table: dict[str, Any] = tomllib.load(file)
            return table
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is no TOML ({error}); mend that line") from error

"""Read TOML files, with errors that name the file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from atom_plugin.errors import ConfigError
from atom_plugin.runtime import bounded_json

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path) -> dict[str, Any]:
    """The tables and values of a TOML file. Raises ConfigError if it cannot be read or is not TOML."""
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: cannot be read (it is not a regular file); name a TOML file")
    try:
        with path.open("rb") as file:
            table: dict[str, Any] = tomllib.load(file)
        bounded_json.check(table)
    except RecursionError:
        raise ConfigError(f"{path}: contains values nested hundreds deep; write it flat") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name a TOML file") from error
    except bounded_json.OutOfBounds as error:
        raise ConfigError(f"{path}: {error}") from error
    except ValueError as error:  # TOMLDecodeError, bytes that are no text, numbers of thousands of digits
        raise ConfigError(f"{path}: is not TOML ({error}); correct that line") from error
    return table

"""Settings files."""

from __future__ import annotations

import pytest

from atom_plugin.errors import ConfigError
from atom_plugin.runtime.toml import read_toml


def test_a_file_is_read(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text('models = ["vit"]\n[convnet]\ndepth = [1, 2]\n')
    assert read_toml(file) == {"models": ["vit"], "convnet": {"depth": [1, 2]}}


@pytest.mark.parametrize("content", [b"depth = [1,\n", b'name = "\xff"\n'])
def test_what_is_no_toml_is_named(tmp_path, content):
    file = tmp_path / "a.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.toml: is no TOML"):
        read_toml(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        read_toml(tmp_path / "none.toml")

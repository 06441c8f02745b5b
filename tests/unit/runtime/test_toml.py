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
    with pytest.raises(ConfigError, match=r"a\.toml: is not TOML"):
        read_toml(file)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a = " + "[" * 900 + "]" * 900, "nested"),
        ("a = " + "[" * 100_000, "nested"),
        ("a = nan", "found the number nan"),
        ("a = 1" + "0" * 400, "a whole number beyond 64 bits"),
        ("a = " + "9" * 5000, "is not TOML"),
    ],
)
def test_values_that_nothing_could_stand_are_named(tmp_path, content, words):
    file = tmp_path / "a.toml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=rf"a\.toml: .*{words}"):
        read_toml(file)
    with pytest.raises(ConfigError, match=r"not a regular file.*name a TOML file"):
        read_toml(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        read_toml(tmp_path / "none.toml")

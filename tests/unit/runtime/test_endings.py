"""Names of files that promise another kind of file than what is written."""

from pathlib import Path

import pytest

from atom_plugin.errors import ConfigError
from atom_plugin.runtime.endings import ENDINGS, refuse_other_ending


@pytest.mark.parametrize("kind", ENDINGS)
def test_a_kind_is_written_under_its_own_endings_alone(kind):
    for other, endings in ENDINGS.items():
        for ending in endings:
            path = Path(f"a{ending.upper()}")
            if other == kind:
                refuse_other_ending(path, kind)
                continue
            with pytest.raises(ConfigError, match=rf"{ending}', but -o holds {kind}; name it a{ENDINGS[kind][0]}"):
                refuse_other_ending(path, kind, option="-o")


def test_pictures_and_archives_are_no_sets():
    for name in ("a.png", "a.pdf", "a.zip", "a.npy"):
        with pytest.raises(ConfigError, match=r"a\.h5"):
            refuse_other_ending(Path(name), "HDF5")


@pytest.mark.parametrize("name", ["a", "a.set", "a.v2", ".hidden", "a.H5", "b.npz/a"])
def test_an_ending_that_promises_nothing_is_left_to_the_user(name):
    refuse_other_ending(Path(name), "HDF5")

"""What is said of a set that was written."""

from __future__ import annotations

import pytest
from synthetic_sets import make_set

from atom_plugin.cli.written import note_whitening


@pytest.mark.parametrize(("images", "noted"), [(5, True), (48, True), (49, False)])
def test_a_whitening_of_few_images_is_noted(capsys, images, noted):
    note_whitening(make_set(shape=(3, 4, 4), zca=True), images)  # 48 values
    error = capsys.readouterr().err
    assert ("--no-zca" in error and "(48)" in error and error.count("\n") == 1) == noted
    assert bool(error) == noted


def test_without_whitening_nothing_is(capsys):
    note_whitening(make_set(), 1)
    assert capsys.readouterr().err == ""

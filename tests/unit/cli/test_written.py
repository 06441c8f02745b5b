"""What is said of a set that was written."""

from __future__ import annotations

import pytest
from synthetic_sets import make_set

from atom_plugin.cli.written import note_size, note_whitening


@pytest.mark.parametrize(("images", "noted"), [(5, True), (48, True), (49, False)])
def test_a_whitening_of_few_images_is_noted(capsys, images, noted):
    note_whitening(make_set(shape=(3, 4, 4), zca=True), images)  # 48 values
    error = capsys.readouterr().err
    assert ("--no-zca" in error and "(48)" in error and error.count("\n") == 1) == noted
    assert bool(error) == noted


def test_without_whitening_nothing_is(capsys):
    note_whitening(make_set(), 1)
    assert capsys.readouterr().err == ""


def test_a_whitening_matrix_that_is_most_of_a_file_is_noted(capsys):
    made = make_set(shape=(3, 32, 32), zca=True)
    note_size(made)
    error = capsys.readouterr().err
    assert "37.7 MB" in error and "--no-zca" in error and error.count("\n") == 1


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 4)])
def test_a_small_matrix_is_not(capsys, shape):
    note_size(make_set(shape=shape, zca=True))
    note_size(make_set(shape=(3, 32, 32)))
    assert capsys.readouterr().err == ""
